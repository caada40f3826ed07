"""Validates the service account tokens of Kubernetes workloads. Does not depend on tenants or on Callgate's routes."""
