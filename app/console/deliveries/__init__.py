"""The pages of deliveries: what waits, what is being retried, and what was given up."""
