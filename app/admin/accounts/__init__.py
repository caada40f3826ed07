"""Twilio accounts and their credentials in the admin API."""
