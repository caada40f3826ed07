"""The pages of queues: how far each is, why its next call waits, and what acts on all of its calls."""
