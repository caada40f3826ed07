"""Environment variables that look like settings and are none."""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping

_PREFIX = "CALLGATE_"
# Of two names with the prefix in common: CALLGATE_DATABSE_URL and _SECRET_KEY resemble a setting, CALLGATE_KEY does not.
_RESEMBLES = 0.87
_OF_A_SERVICE = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?$")


def misspelt(known: Collection[str], variables: Mapping[str, str], files: Iterable[str] = ()) -> Iterator[str]:
    """A fault for each variable or file that resembles a setting and is none."""
    for name in [*variables, *files]:
        full = name.upper()
        if not full.startswith(_PREFIX) or full in known or _is_of_kubernetes(full, variables.get(name, "")):
            continue
        if resembling := difflib.get_close_matches(full, known, n=1, cutoff=_RESEMBLES):
            yield f"{name} is no setting: did you mean {resembling[0]}?"


def _is_of_kubernetes(name: str, value: str) -> bool:
    """https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables of a Service called callgate…"""
    return _OF_A_SERVICE.search(name) is not None or (name.endswith("_PORT") and "://" in value)
