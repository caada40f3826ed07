"""A stand-in for Twilio's Calls resource, for development and tests only."""
