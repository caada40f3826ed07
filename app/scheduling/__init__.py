"""Scheduled calls: the tables of queues and waiting calls, limits on the dialling rate, and hours in which calls may ring."""
