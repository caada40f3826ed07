"""What runs all of Callgate on one machine, for development and tests, over a real PostgreSQL of its own.

It knows nothing of routes, and nothing of it runs in production.
"""
