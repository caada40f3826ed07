"""Alembic migrations. `callgate migrate` runs them; services never do when they start."""
