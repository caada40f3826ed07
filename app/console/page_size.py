"""The number of lines on one page of a list."""

from typing import Final

PAGE_SIZE: Final = 50
