"""Deadlines and dial slots of calls that a worker may dial or has dialled. A dial slot stands for one concurrent call."""
