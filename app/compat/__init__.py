"""Serves Twilio's own paths, parameters and answers, for unmodified Twilio SDKs. Uses the services that /v1 uses."""
