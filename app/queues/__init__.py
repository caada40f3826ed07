"""Queues of scheduled calls: their settings, how far they are, and what acts on all of their calls."""
