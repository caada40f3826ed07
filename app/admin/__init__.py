"""The admin API, /v1/admin: the use cases of app.tenants and the audit log over HTTP, for keys with the scope `admin`."""
