"""Grants: which scheduled call may be dialled now."""
