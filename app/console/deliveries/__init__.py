"""The pages of deliveries: those that wait, that are being retried, and that were given up."""
