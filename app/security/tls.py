"""Shares TLS contexts between the clients of a process, because reading the certificates takes 30 ms."""

import os
import ssl
from collections.abc import Callable
from functools import cache


def shared_context(make: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Returns the context that `make` returns, such as `ssl.create_default_context`. It is made once for each value of
    SSL_CERT_FILE and SSL_CERT_DIR, the environment variables that say where the certificates are.
    """
    return _context(make, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@cache
def _context(make: Callable[[], ssl.SSLContext], _file: str | None, _folder: str | None) -> ssl.SSLContext:
    return make()
