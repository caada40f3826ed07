"""Callgate: a gateway in front of Twilio's Calls resource. One request, at most one ring."""

__version__ = "0.1.0"
