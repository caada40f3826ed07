"""Runs all of Callgate on one machine, for development and tests, over an embedded PostgreSQL.

No deployment uses it, except for `listen` and `serving_probes` in `stack`.
"""
