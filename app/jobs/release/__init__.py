"""`callgate queues release`: lets calls be granted again after the database may have lost grants."""
