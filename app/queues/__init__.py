"""Queues of scheduled calls: settings, progress, and the creation and cancellation of many calls."""
