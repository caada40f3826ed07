"""Tenants in the admin API."""
