"""The order in which Callgate tries the active credentials of an account at Twilio."""

from typing import Final

CREDENTIAL_ORDER_SQL: Final = """credential.rejected_at NULLS FIRST, coalesce(credential.place, credential.id),
    credential.preferred_at DESC NULLS LAST, credential.id"""
"""The SQL expressions after ORDER BY in a query that names the table of credentials `credential`.

Credentials that Twilio has not rejected come first. A credential that replaces another one comes before the replaced one.
"""
