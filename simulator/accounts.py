"""The Twilio accounts of the simulator and their credentials: https://www.twilio.com/docs/iam/api."""

import re
import secrets
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from simulator.errors import TwilioError

ACCOUNT_SID_PATTERN = re.compile(r"AC[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class Account:
    """A Twilio account. An account with neither an auth token nor API keys is open: it accepts any user and password."""

    sid: str
    auth_token: str | None = field(default=None, repr=False)
    api_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The secrets of the API keys, by the sid of the key (`SK…`)."""
    first_password: str | None = field(default=None, repr=False)
    """The password of the first request to an open account. The simulator signs the account's callbacks with it."""
    is_registered: bool = True
    """False for an account that open mode has created for its first request."""
    secondary_auth_token: str | None = field(default=None, repr=False)
    """Requests may use this token like the auth token, but it signs no callback until it is promoted.

    https://www.twilio.com/docs/iam/api/authtoken
    """

    @property
    def callback_signing_key(self) -> str | None:
        """Returns the key that signs the account's callbacks: the auth token, or else the password of its first request.

        Returns None if the account has only API keys, or is open and has had no request yet. Twilio signs with the auth token
        even if requests are authenticated with an API key.
        """
        return self.auth_token if self.auth_token is not None else self.first_password

    @property
    def is_open(self) -> bool:
        return self.auth_token is None and not self.api_keys

    def accepts(self, username: str, password: str) -> bool:
        if self.is_open:
            return True
        tokens = (self.auth_token, self.secondary_auth_token) if username == self.sid else (self.api_keys.get(username),)
        return any(token is not None and secrets.compare_digest(token.encode(), password.encode()) for token in tokens)


def basic_credentials(authorization: str | None) -> tuple[str, str] | None:
    """Returns user name and password of an `Authorization: Basic` header; None if it is missing or malformed."""
    scheme, _, encoded = (authorization or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        username, colon, password = b64decode(encoded.strip(), validate=True).decode().partition(":")
    except ValueError:
        return None
    return (username, password) if colon else None


class AccountStore:
    def __init__(self, registered: Iterable[Account], *, open_mode: bool) -> None:
        self._accounts = {account.sid: account for account in registered}
        self._open_mode = open_mode

    def register(self, account: Account) -> None:
        """Adds the account. If it is registered already, replaces its credentials, as a rotation at Twilio does."""
        self._accounts[account.sid] = account

    def get(self, account_sid: str) -> Account | None:
        return self._accounts.get(account_sid)

    def promote_secondary_auth_token(self, account_sid: str) -> Account:
        """Replaces the account's auth token by its secondary auth token, and returns the changed account.

        Raises error 20404 if there is no secondary auth token.
        """
        account = self._accounts.get(account_sid)
        if account is None or account.secondary_auth_token is None:
            raise TwilioError(20404, f"/_simulator/accounts/{account_sid}/promote")
        account = replace(account, auth_token=account.secondary_auth_token, secondary_auth_token=None)
        self.register(account)
        return account

    def authenticate(self, account_sid: str, authorization: str | None) -> Account:
        """Returns the account if `authorization`, a request's header, has valid credentials of this account.

        Raises error 20003 for missing or wrong credentials, and 20404 for a malformed account sid. In open mode, an account
        that is not registered is created, and accepts any user and password. A registered account with credentials requires
        them even then, so that tests can send wrong credentials.
        """
        credentials = basic_credentials(authorization)
        if credentials is None:
            raise TwilioError(20003, message="Authentication Error - No credentials provided")
        if not ACCOUNT_SID_PATTERN.fullmatch(account_sid):
            raise TwilioError(20404, f"/2010-04-01/Accounts/{account_sid}")
        account = self._accounts.get(account_sid)
        if account is None and self._open_mode:
            account = Account(account_sid, is_registered=False)
        if account is None or not account.accepts(*credentials):
            raise TwilioError(20003)
        if account.is_open and account.first_password is None:
            account = replace(account, first_password=credentials[1])
            self.register(account)
        return account

    def reset(self) -> None:
        """Removes the accounts that open mode has created.

        The other accounts stay. Those without credentials forget the password of their first request.
        """
        registered = {sid: account for sid, account in self._accounts.items() if account.is_registered}
        self._accounts = {sid: replace(account, first_password=None) for sid, account in registered.items()}
