"""Applies a file that declares tenants (`callgate apply`): changes what the file names, and deletes nothing."""
