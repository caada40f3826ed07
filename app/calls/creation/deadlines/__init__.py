"""Deadlines and dial slots of calls that were granted."""
