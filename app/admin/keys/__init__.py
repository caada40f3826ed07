"""The admin API's routes and bodies for API keys."""
