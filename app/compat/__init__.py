"""Serves Twilio's own paths and shapes from the same services, for unmodified Twilio SDKs."""
