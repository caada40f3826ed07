"""Services as a team would write them by hand, for comparison: see docs/performance.md."""
