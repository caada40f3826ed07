"""Figures of calls per minute and hour, for the plots of the console."""
