"""Sessions of people who are logged in to the console, and the ways to start a session."""
