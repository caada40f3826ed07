"""Who is logged in to the console: sessions, and the ways to start one."""
