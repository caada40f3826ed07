"""Writes again the records and attempts that Postgres has lost after their commit."""
