"""Commits the first records of calls on accounts with a limited pace: a limit of the call rate or of concurrent calls."""
