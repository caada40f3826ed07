"""The audit log: who changed what in the administration, and when. Never holds a value or a secret."""
