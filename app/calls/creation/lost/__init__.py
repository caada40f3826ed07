"""Writes again the records of calls, and of attempts to place them, that Postgres has lost after their commit."""
