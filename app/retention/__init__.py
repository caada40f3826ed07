"""Records are kept for as long as the operator chose, and not longer."""
