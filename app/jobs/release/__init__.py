"""`callgate queues release`: allows grants of scheduled calls again, after the database may have lost some."""
