"""The HTTP method and the form of deliveries to a tenant."""

from typing import Literal

CallbackMethod = Literal["GET", "POST"]
CallbackForm = Literal["twilio", "json"]
