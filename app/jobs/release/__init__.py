"""`callgate queues release`: resumes grants after the database may have lost some."""
