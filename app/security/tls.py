"""Shares TLS contexts between the HTTP clients of a process, because reading the certificates takes 30 ms."""

import os
import ssl
from collections.abc import Callable
from functools import cache


def shared_tls_context(make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Returns a TLS context that `make` creates. `make` is `ssl.create_default_context`, for example.

    Calls `make` only once for the same values of SSL_CERT_FILE and SSL_CERT_DIR. These environment variables say where the
    certificates are.
    """
    return _cached_tls_context(make, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _cached_tls_context(make: Callable[[], ssl.SSLContext], _file: str | None, _folder: str | None) -> ssl.SSLContext:
    return make()
