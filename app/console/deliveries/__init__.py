"""The pages about deliveries that wait, are retried or were given up.

A delivery is the request that reports an event to a tenant.
"""
