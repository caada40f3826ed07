"""Serves Twilio's own paths, parameters and answers, for unmodified Twilio SDKs. Calls the same services as the API /v1."""
