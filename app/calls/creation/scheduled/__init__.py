"""Writes scheduled calls, and ends those that are canceled or expire before a worker dials them."""
