"""The forms that change a tenant's accounts, credentials and API keys."""
