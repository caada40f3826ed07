"""What the worker does: refresh, resolve, partitions. Each job is a module with one step; any number of workers may run."""
