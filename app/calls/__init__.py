"""Creates, reads and changes calls, and keeps a record of each creation."""
