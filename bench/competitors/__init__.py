"""Services as a team would write them by hand in place of Callgate, for comparison: see docs/performance.md."""
