"""All knowledge of Twilio's REST API. Does not depend on tenants, tables or routes."""
