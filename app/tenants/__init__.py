"""Tenants, their Twilio accounts and credentials, and their API keys. Independent of HTTP."""
