"""How many lines one page of a list has."""

from typing import Final

PAGE_SIZE: Final = 50
