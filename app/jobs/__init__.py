"""The worker process and its jobs: methods such as `CallRefresher.step`, which it repeats. Several workers may run at once."""
