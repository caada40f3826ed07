"""Workloads in the admin API."""
