"""Commits the first records of calls whose account has a pace: a limit of the call rate or of concurrent calls."""
