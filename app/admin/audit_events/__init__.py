"""The admin API's routes and bodies for the audit log."""
