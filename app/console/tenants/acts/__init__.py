"""What changes a tenant's accounts, credentials and API keys."""
