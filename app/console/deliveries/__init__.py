"""The pages of deliveries, the requests that report events to tenants: those that wait, are retried, or were given up."""
