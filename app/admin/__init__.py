"""The admin API, /v1/admin: manages tenants and shows the audit log over HTTP. Clients need the scope `admin`.

For reading, an operator may have the scope `read` instead.
"""
