"""The page *Now*: a sentence about the calls of the last hour, what needs attention, and plots."""
