"""Runs the API, the worker and the simulator on one machine, for development and tests, with an embedded PostgreSQL.

Two functions are also used in a deployment: workers use `serving_probes` (in `probes`), and commands use
`settings_with_local_database` (in `state`).
"""
