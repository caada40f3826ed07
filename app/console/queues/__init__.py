"""The pages of queues: the progress of a queue, why its next call waits, and forms that act on all of its calls."""
