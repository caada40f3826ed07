"""Deliveries: requests that report the events of a call to the tenant's URL."""
