"""Alembic migrations; run by `callgate migrate`, never when a service starts."""
