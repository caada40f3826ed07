"""The worker process and its jobs. A job is a method that the worker repeats, such as `CallRefresher.step`.

Several workers may run at once.
"""
