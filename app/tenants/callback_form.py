"""The forms of deliveries to a tenant."""

from typing import Literal

Form = Literal["twilio", "json"]
