"""Decides which scheduled calls may be dialled now. A grant is the right of one process to dial one call."""
