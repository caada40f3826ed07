"""Runs the API, the worker and the simulator on one machine, for development and tests, with an embedded PostgreSQL.

Two functions are also used in a deployment: `serving_probes` (in `probes`) by workers, and `with_local_database` (in `state`)
by commands.
"""
