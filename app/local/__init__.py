"""Runs all of Callgate on one machine, for development and tests, over an embedded PostgreSQL.

In a deployment, `callgate worker` uses `serving_probes` from `probes`, and commands use `with_local_database` from `state`.
"""
