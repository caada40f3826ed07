"""The admin API's routes and bodies for SIP credentials."""
