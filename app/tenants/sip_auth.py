"""User name and password for the digest authentication of a SIP endpoint."""

from dataclasses import dataclass

from pydantic import SecretStr


@dataclass(frozen=True, slots=True)
class SipAuth:
    username: SecretStr
    password: SecretStr

    def clear_text_parameters(self) -> dict[str, str]:
        """Returns Twilio's parameters `SipAuthUsername` and `SipAuthPassword` in clear text, by their names in snake_case.

        Use the result only in the request to Twilio.
        """
        return {
            "sip_auth_username": self.username.get_secret_value(),
            "sip_auth_password": self.password.get_secret_value(),
        }
