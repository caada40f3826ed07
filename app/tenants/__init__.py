"""Stores, manages and looks up tenants, their Twilio accounts, API keys and other data. Does not depend on HTTP routes."""
