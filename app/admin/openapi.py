"""The admin API's parts of the OpenAPI document: the tag, the models of request bodies, and the examples."""

from typing import Any

from pydantic import BaseModel

from app.admin.accounts import examples as account_examples
from app.admin.accounts.schemas import AccountChange, NewAccount, NewCredential
from app.admin.audit_events import router as audit_events_router
from app.admin.keys import examples as key_examples
from app.admin.keys.schemas import NewKey
from app.admin.sip_credentials import examples as sip_credential_examples
from app.admin.sip_credentials.schemas import NewSipAuth, NewSipCredential
from app.admin.tenants import examples as tenant_examples
from app.admin.tenants.schemas import NewTenant, TenantChange
from app.admin.workloads import examples as workload_examples
from app.admin.workloads.schemas import NewWorkload

TAG = {
    "name": "administration",
    "description": "Manage tenants, their Twilio accounts, API keys, SIP credentials and workloads, and see who changed what. "
    "Needs the scope `admin`; to read, `read` suffices for an operator's key. An operator's key reaches all tenants, a "
    "tenant's own key its own tenant. With an operations port, only that port serves these routes. "
    "[Administration](/docs/administration) has examples.",
}
REQUEST_BODY_MODELS: list[type[BaseModel]] = [
    NewTenant,
    TenantChange,
    NewAccount,
    AccountChange,
    NewCredential,
    NewKey,
    NewSipCredential,
    NewSipAuth,
    NewWorkload,
]
EXAMPLE_COMPONENTS: dict[str, Any] = {
    **tenant_examples.RESPONSE_BODIES,
    **account_examples.RESPONSE_BODIES,
    **key_examples.RESPONSE_BODIES,
    **sip_credential_examples.RESPONSE_BODIES,
    **workload_examples.RESPONSE_BODIES,
    **audit_events_router.AUDIT_EVENT_EXAMPLES,
}
