"""Scheduled calls, from their creation until a worker dials them, or until they are canceled or expire."""
