"""Encrypts and decrypts stored secrets, and computes keyed hashes.

An encrypted secret consists of: version (1 byte) | key id (4 bytes) | nonce (12 bytes) | AES-256-GCM ciphertext and tag. The
identity of the database row is the associated data, so a ciphertext that was moved to another row cannot be decrypted.

`cryptography` takes 5 MiB of memory, so it is imported only when it is used. Commands that only list data do not use it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_FORMAT_VERSION = b"\x01"
_KEY_ID_BYTES = 4
# The position of the key id, as arguments of SQL's substring: first byte (from 1) and length in bytes.
KEY_ID_SUBSTRING_IN_CIPHERTEXT = (len(_FORMAT_VERSION) + 1, _KEY_ID_BYTES)
KEY_ID_SUBSTRING_IN_HASH = (1, _KEY_ID_BYTES)
_NONCE_BYTES = 12
_TAG_BYTES = 16


class SecretUnreadable(Exception):
    """An encrypted secret cannot be decrypted: its key is not configured, or it belongs to another row, or it was changed."""


class _MasterKey:
    """A master key from CALLGATE_SECRET_KEYS, with a derived key for each purpose, such as encryption."""

    def __init__(self, master: bytes) -> None:
        self.id = hashlib.sha256(b"callgate key id" + master).digest()[:_KEY_ID_BYTES]
        self._master = master

    @cached_property
    def cipher(self) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(_derive_key(self._master, b"seal"))

    @cached_property
    def hashing_key(self) -> bytes:
        return _derive_key(self._master, b"mac")

    @cached_property
    def pseudonym_key(self) -> bytes:
        return _derive_key(self._master, b"token")

    @cached_property
    def tag_key(self) -> bytes:
        return _derive_key(self._master, b"tag")


def _derive_key(master: bytes, purpose: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"callgate " + purpose).derive(master)


def _compute_mac(key: _MasterKey, value: bytes) -> bytes:
    return hmac.digest(key.tag_key, value, "sha256")[:_TAG_BYTES]


class Keyring:
    """The configured keys, newest first. Encrypts and hashes with the newest, decrypts and compares with any."""

    def __init__(self, master_keys: list[bytes]) -> None:
        keys = [_MasterKey(master) for master in master_keys]
        self._newest = keys[0]
        self._by_id = {key.id: key for key in keys}

    @property
    def newest_key_id(self) -> bytes:
        return self._newest.id

    @property
    def configured_key_ids(self) -> list[bytes]:
        return list(self._by_id)

    def encrypt(self, secret: str, *, associated_data: str) -> bytes:
        """Returns the secret, encrypted with the newest key. `associated_data` names the secret's database row.

        Decryption needs the same `associated_data`.
        """
        nonce = os.urandom(_NONCE_BYTES)
        ciphertext = self._newest.cipher.encrypt(nonce, secret.encode(), associated_data.encode())
        return _FORMAT_VERSION + self._newest.id + nonce + ciphertext

    def decrypt(self, encrypted: bytes, *, associated_data: str) -> str:
        """Returns the decrypted secret.

        Raises SecretUnreadable if the secret cannot be decrypted, for example because its `associated_data` was different.
        """
        from cryptography.exceptions import InvalidTag

        header = len(_FORMAT_VERSION) + _KEY_ID_BYTES
        if encrypted[: len(_FORMAT_VERSION)] != _FORMAT_VERSION or len(encrypted) < header + _NONCE_BYTES + _TAG_BYTES:
            raise SecretUnreadable("damaged: not in the form of an encrypted secret")
        key = self._by_id.get(encrypted[len(_FORMAT_VERSION) : header])
        if key is None:
            raise SecretUnreadable("encrypted with a key that is not among CALLGATE_SECRET_KEYS")
        nonce, ciphertext = encrypted[header : header + _NONCE_BYTES], encrypted[header + _NONCE_BYTES :]
        try:
            return key.cipher.decrypt(nonce, ciphertext, associated_data.encode()).decode()
        except (InvalidTag, ValueError):
            raise SecretUnreadable("damaged, or moved from another row") from None

    def is_ciphertext_of(self, encrypted: bytes, secret: str, *, associated_data: str) -> bool:
        """Returns whether `encrypted` decrypts to `secret`: False if it cannot be decrypted. Compares in constant time."""
        try:
            return hmac.compare_digest(self.decrypt(encrypted, associated_data=associated_data).encode(), secret.encode())
        except SecretUnreadable:
            return False

    def reencrypt(self, encrypted: bytes, *, associated_data: str) -> bytes:
        """Returns the secret, decrypted and encrypted with the newest key. Raises SecretUnreadable if `decrypt` does."""
        return self.encrypt(self.decrypt(encrypted, associated_data=associated_data), associated_data=associated_data)

    def pseudonym(self, value: str) -> str:
        """Returns a pseudonym of the value: `tok_` and a short keyed hash, which changes when a newer key is configured."""
        return f"tok_{hmac.digest(self._newest.pseudonym_key, value.encode(), 'sha256')[:6].hex()}"

    def compute_mac(self, value: bytes) -> bytes:
        """Returns a MAC (message authentication code) of the value under the newest key, cut to 16 bytes."""
        return _compute_mac(self._newest, value)

    def is_mac_of(self, tag: bytes, value: bytes) -> bool:
        """Returns whether `tag` is the MAC of `value` under any configured key. Compares in constant time."""
        return any(hmac.compare_digest(tag, _compute_mac(key, value)) for key in self._by_id.values())

    def keyed_hash(self, value: bytes) -> bytes:
        """Returns the id of the newest key (4 bytes), followed by the HMAC-SHA256 of the value under this key."""
        return self._newest.id + hmac.digest(self._newest.hashing_key, value, "sha256")

    def is_outdated_hash(self, stored: bytes) -> bool:
        """Returns whether `stored`, a result of `keyed_hash`, was made with a key other than the newest."""
        return stored[:_KEY_ID_BYTES] != self._newest.id

    def matches_keyed_hash(self, stored: bytes, value: bytes) -> bool:
        """Returns whether `stored` is the `keyed_hash` of `value` under any configured key. Compares in constant time."""
        key = self._by_id.get(stored[:_KEY_ID_BYTES], self._newest)
        return hmac.compare_digest(stored, key.id + hmac.digest(key.hashing_key, value, "sha256"))
