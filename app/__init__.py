"""Callgate: a gateway in front of Twilio's Calls resource. One request places at most one call."""

__version__ = "0.2.0"
