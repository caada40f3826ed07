"""The type of a Kubernetes service account. Checks names of service accounts and of namespaces by the rules of Kubernetes."""

import re
from dataclasses import dataclass

# https://kubernetes.io/docs/concepts/overview/working-with-objects/names/: the name of a namespace is a DNS label. The name of
# a service account is a DNS subdomain, and Kubernetes does not limit the length of its labels. Neither name can contain the
# ":" that separates the parts of a token's `sub`.
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
NAMESPACE_PATTERN = re.compile(_DNS_LABEL)
SERVICE_ACCOUNT_PATTERN = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
MAX_NAMESPACE_LENGTH = 63
MAX_SERVICE_ACCOUNT_LENGTH = 253


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """A Kubernetes service account. `issuer` identifies its cluster, because account names may recur in other clusters."""

    issuer: str
    namespace: str
    name: str


def is_namespace_name(name: object) -> bool:
    return isinstance(name, str) and len(name) <= MAX_NAMESPACE_LENGTH and NAMESPACE_PATTERN.fullmatch(name) is not None


def is_service_account_name(name: object) -> bool:
    return (
        isinstance(name, str)
        and len(name) <= MAX_SERVICE_ACCOUNT_LENGTH
        and SERVICE_ACCOUNT_PATTERN.fullmatch(name) is not None
    )
