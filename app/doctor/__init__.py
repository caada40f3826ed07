"""The checks of `callgate doctor`."""
