"""The console, /console: HTML pages over the services, for people who log in. Actions need scopes and are audited."""
