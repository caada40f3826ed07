"""The console, /console: HTML pages over the services, for people who log in. Every act has its scope and its audit event."""
