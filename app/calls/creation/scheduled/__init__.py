"""Scheduled calls, from their creation until they are granted, canceled or expired."""
