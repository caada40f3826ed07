"""Applies a file that declares tenants (`callgate apply`). What the file leaves out stays as it is."""
