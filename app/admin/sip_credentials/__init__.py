"""SIP credentials in the admin API."""
