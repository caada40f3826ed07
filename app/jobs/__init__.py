"""The worker process and its jobs, which it repeats: methods such as `CallRefresher.step`. Several workers may run at once."""
