"""The admin API, /v1/admin: manages tenants and shows the audit log over HTTP, for API keys with the scope `admin`."""
