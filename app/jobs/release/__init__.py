"""`callgate queues release`: resumes the dialling of scheduled calls after the database may have lost recent changes."""
