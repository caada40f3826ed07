"""Rollups: counts, latencies and prices of the calls of each minute and hour, for the plots of the console."""
