"""The result of a check of `callgate doctor`."""

from dataclasses import dataclass
from typing import Literal

CheckState = Literal["ok", "warning", "wrong", "not checked"]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check of `callgate doctor`: `found` says what was found, and `do` says what the operator should do."""

    check: str
    state: CheckState
    found: str
    do: str | None = None
