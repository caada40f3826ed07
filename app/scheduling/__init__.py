"""Scheduled calls: queues, pace, hours, and the rows that are the right to dial."""
