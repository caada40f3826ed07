"""Workload identities: validates service account tokens of Kubernetes. Not aware of tenants and HTTP."""
