"""The console under /console: HTML pages for people who log in. The pages call the same services as the API.

Actions, such as ending a call, need the scope `admin`, and the audit log records them.
"""
