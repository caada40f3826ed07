"""Twilio's own paths and shapes over the same services, so that unmodified Twilio SDKs work."""
