"""Grants: decides which scheduled calls may be dialled now."""
