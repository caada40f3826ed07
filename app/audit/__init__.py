"""The audit log: who changed what in the administration, and when. It never holds changed values or secrets."""
