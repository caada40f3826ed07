"""Tenants, their Twilio accounts and credentials, and their API keys. Not aware of HTTP."""
