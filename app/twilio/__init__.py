"""All knowledge of Twilio's REST API. Knows no tenant, no table and no route."""
