"""Commits the intents of calls on accounts whose pace is limited."""
