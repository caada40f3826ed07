"""Intents on accounts whose pace is limited."""
