"""Deadlines and dial slots of calls that a worker has taken the right to dial. A dial slot stands for one concurrent call."""
