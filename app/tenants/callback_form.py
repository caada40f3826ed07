"""The forms in which a tenant can be told of its calls' progress."""

from typing import Literal

Form = Literal["twilio", "json"]
