"""What a team would write by hand, for comparison: see docs/performance.md."""
