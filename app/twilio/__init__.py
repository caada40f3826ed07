"""The code that knows Twilio's REST API. It does not depend on tenants, database tables or Callgate's routes."""
