"""The console under /console: HTML pages for people who log in. They call the services that the API calls.

Actions need scopes and are recorded in the audit log.
"""
