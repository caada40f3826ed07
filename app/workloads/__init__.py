"""Workload identities: validates service account tokens of Kubernetes. Independent of tenants and HTTP."""
