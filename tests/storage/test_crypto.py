"""Tests that an encrypted secret can be decrypted only for its own row, and that keyed hashes match only under their key."""

import os

import pytest

from app.security.keyring import Keyring, SecretUnreadable

OLD, NEW = os.urandom(32), os.urandom(32)


def test_an_encrypted_secret_can_be_decrypted_for_the_same_row() -> None:
    ring = Keyring([NEW])
    assert ring.decrypt(ring.encrypt("töken", associated_data="row:1"), associated_data="row:1") == "töken"


def test_encrypting_a_secret_twice_gives_different_ciphertexts() -> None:
    ring = Keyring([NEW])
    assert ring.encrypt("token", associated_data="row:1") != ring.encrypt("token", associated_data="row:1")


def test_a_ciphertext_moved_to_another_row_cannot_be_decrypted() -> None:
    ring = Keyring([NEW])
    with pytest.raises(SecretUnreadable):
        ring.decrypt(ring.encrypt("token", associated_data="row:1"), associated_data="row:2")


@pytest.mark.parametrize("position", [0, 1, 5, 17, -1])
def test_a_secret_with_a_changed_byte_cannot_be_decrypted(position: int) -> None:
    ring = Keyring([NEW])
    encrypted = bytearray(ring.encrypt("token", associated_data="row:1"))
    encrypted[position] ^= 1
    with pytest.raises(SecretUnreadable):
        ring.decrypt(bytes(encrypted), associated_data="row:1")


@pytest.mark.parametrize("length", [0, 1, 4, 5, 6, 12, 16, 17, 18, 32, 33])
def test_a_truncated_secret_of_any_length_cannot_be_decrypted(length: int) -> None:
    ring = Keyring([NEW])
    with pytest.raises(SecretUnreadable):
        ring.decrypt(ring.encrypt("token", associated_data="row:1")[:length], associated_data="row:1")


@pytest.mark.parametrize("stored", [b"token", b"dG9rZW4=", b"\xff" * 40, bytes(40)])
def test_bytes_that_were_never_encrypted_cannot_be_decrypted(stored: bytes) -> None:
    with pytest.raises(SecretUnreadable):
        Keyring([NEW]).decrypt(stored, associated_data="row:1")


def test_an_older_key_still_decrypts_and_the_newest_encrypts() -> None:
    before, after = Keyring([OLD]), Keyring([NEW, OLD])
    assert after.decrypt(before.encrypt("token", associated_data="row:1"), associated_data="row:1") == "token"
    with pytest.raises(SecretUnreadable):
        before.decrypt(after.encrypt("token", associated_data="row:1"), associated_data="row:1")


def test_a_keyed_hash_matches_its_value_under_any_configured_key_only() -> None:
    before, after = Keyring([OLD]), Keyring([NEW, OLD])
    stored = before.keyed_hash(b"value")
    assert after.matches_keyed_hash(stored, b"value")
    assert not after.matches_keyed_hash(stored, b"other")
    assert not Keyring([NEW]).matches_keyed_hash(stored, b"value")


def test_a_pseudonym_is_the_same_in_every_version() -> None:
    """Checks literal pseudonyms. Operators search months of logs for the pseudonym of one number."""
    ring = Keyring([b"a" * 32, b"b" * 32])
    assert [ring.pseudonym(value) for value in ("+14155550123", "kate", "Zoë")] == [
        "tok_6a1c7fb4066b",
        "tok_c06ab92ee7d0",
        "tok_b11d8d3a9976",
    ]
    assert Keyring([b"b" * 32, b"a" * 32]).pseudonym("kate") != ring.pseudonym("kate")
