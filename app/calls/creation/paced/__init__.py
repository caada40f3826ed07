"""Commits the first records of calls on accounts that have a pace: a limit of the call rate or of concurrent calls."""
