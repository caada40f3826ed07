"""The worker process and its jobs. Each job is a module with a `step` that the worker repeats. Several workers may run."""
