"""The admin API's routes and bodies for Twilio accounts and their credentials."""
