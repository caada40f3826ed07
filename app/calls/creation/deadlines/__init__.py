"""Deadlines and slots of calls that were granted."""
