"""Finds environment variables and secret files whose names look like a misspelt name of a Callgate setting."""

import difflib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping

from app.setting_values import SETTING_PREFIX

# By this measure CALLGATE_DATABSE_URL and CALLGATE_SECRET_KEY are similar to a setting, and CALLGATE_KEY is not.
_MIN_SIMILARITY = 0.87
_KUBERNETES_VARIABLE_END = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT_\d+_(TCP|UDP|SCTP)(_PROTO|_PORT|_ADDR)?$")


def find_misspelt_settings(known: Collection[str], variables: Mapping[str, str], files: Iterable[str] = ()) -> Iterator[str]:
    """Yields a message for each variable or file whose name looks like a misspelt setting. `known` names all settings."""
    for name in [*variables, *files]:
        variable = name.upper()
        if (
            not variable.startswith(SETTING_PREFIX)
            or variable in known
            or _is_set_by_kubernetes(variable, variables.get(name, ""))
        ):
            continue
        if similar := difflib.get_close_matches(variable, known, n=1, cutoff=_MIN_SIMILARITY):
            yield f"{name} is not a setting: did you mean {similar[0]}?"


def _is_set_by_kubernetes(name: str, value: str) -> bool:
    """Returns whether Kubernetes sets the variable for a Service whose name starts with callgate.

    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    return _KUBERNETES_VARIABLE_END.search(name) is not None or (name.endswith("_PORT") and "://" in value)
