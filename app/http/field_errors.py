"""What pydantic finds wrong with a body, in our words."""

from pydantic_core import ErrorDetails

from app.errors import Fault

_PLAINER_WORDS = {
    "missing": ("missing", "is required"),
    "extra_forbidden": ("unknown_member", "is not a member of this request; /docs lists them all"),
}


def fault_of(detail: ErrorDetails) -> Fault:
    """One finding with its RFC 6901 pointer."""
    parts = [part for part in detail["loc"] if not (isinstance(part, str) and _is_union_tag(part))]
    pointer = "/" + "/".join(str(part).replace("~", "~0").replace("/", "~1") for part in parts)
    code, text = _PLAINER_WORDS.get(detail["type"], (detail["type"], detail["msg"]))
    return Fault(pointer, code, text)


def _is_union_tag(part: str) -> bool:
    """pydantic names the member of a union that it tried; no caller wrote that."""
    return part == "bool" or part.startswith("literal[")
