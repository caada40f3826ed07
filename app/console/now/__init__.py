"""The page *Now*: how calls go, what needs attention, and plots."""
