"""The worker and its jobs. Each job is a module with a step that the worker repeats. Any number of workers may run."""
