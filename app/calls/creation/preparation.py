"""Prepares the request that creates a call at Twilio.

Chooses the account and its credentials, adds the SIP credential, and sets the URL to which Twilio sends status callbacks.
"""

from dataclasses import dataclass
from uuid import UUID

from app.calls.callback_urls import CallbackUrls
from app.calls.creation.dial import PreparedCall
from app.calls.parameters import CallRequest
from app.calls.status_callbacks import StatusCallbackSettings, UrlValidator, status_callbacks_for_creation
from app.errors import FieldError, InvalidRequest, NoUsableCredentials
from app.tenants.directory import TenantDirectory, UsableAccount
from app.tenants.sip_auth import SipAuth
from app.twilio.schemas import SECRET_PARAMETERS, Form


@dataclass(frozen=True, slots=True)
class CallPreparer:
    """Finds the account of a call and builds the form for Twilio. The methods raise CallgateError if that fails."""

    directory: TenantDirectory
    callback_urls: CallbackUrls | None
    validate_callback_url: UrlValidator

    async def find_account(self, tenant_id: str, account_sid: str | None) -> UsableAccount:
        account = await self.directory.find_usable_account(tenant_id, account_sid=account_sid)
        if account is None:
            raise NoUsableCredentials
        return account

    async def find_sip_auth(self, tenant_id: str, name: str | None) -> SipAuth | None:
        """Returns the current user name and password of the tenant's SIP credential with this name; None if `name` is None.

        Raises InvalidRequest if the tenant has no SIP credential with this name.
        """
        if name is None:
            return None
        sip_auth = await self.directory.sip_auth(tenant_id, name)
        if sip_auth is None:
            text = f"must name a SIP credential of this tenant: there is none with the name {name}"
            raise InvalidRequest(field_errors=(FieldError("/sip_credential", "unknown_sip_credential", text),))
        return sip_auth

    def prepare_call(
        self, request: CallRequest, account: UsableAccount, sip_auth: SipAuth | None, call_id: UUID, began: float
    ) -> tuple[StatusCallbackSettings, PreparedCall]:
        """Returns the call's callback parameters, and the request that creates it at Twilio, with every parameter and secret.

        `began` is the value of the clock `monotonic_seconds()` at which the time budget of the creation began.
        """
        callbacks = status_callbacks_for_creation(
            request, account, call_id, urls=self.callback_urls, validate_url=self.validate_callback_url
        )
        stored = {} if sip_auth is None else sip_auth.clear_text_parameters()
        parameters = request.parameters_for_twilio() | callbacks.parameters_for_twilio | stored
        if None in callbacks.parameters_for_twilio.values():
            parameters = {name: value for name, value in parameters.items() if value is not None}
        form = Form.from_parameters(parameters, secret_names=SECRET_PARAMETERS | stored.keys())
        return callbacks, PreparedCall(form, began, callbacks.sent_to_callgate)
