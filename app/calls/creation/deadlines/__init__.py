"""Deadlines and dial slots of calls that were granted: a worker has taken the right to dial them."""
