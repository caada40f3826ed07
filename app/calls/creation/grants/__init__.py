"""Decides which scheduled calls may be dialled now. A grant is a worker's right to dial one scheduled call."""
