"""Call creations and their records: the reason for this service to exist."""
