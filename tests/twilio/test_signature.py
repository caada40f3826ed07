"""Signatures are the same as those of Twilio's own library."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twilio.request_validator import RequestValidator

from app.twilio.signature import compute_signature, is_valid_signature

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
FORMS = st.dictionaries(TEXT, st.lists(TEXT, min_size=1, max_size=3), max_size=5)
HOSTS = ["https://example.com", "https://example.com:8443", "http://example.com:80", "http://example.com"]


class MultiDict(dict[str, list[str]]):
    """A form with repeated keys, with the method of Django's forms that Twilio's library calls."""

    def getlist(self, name: str) -> list[str]:
        return self[name]


@given(st.sampled_from(HOSTS), FORMS, TEXT)
def test_signatures_are_those_of_twilios_library(host: str, form: dict[str, list[str]], token: str) -> None:
    url = f"{host}/callbacks?a=%20b"
    signature = RequestValidator(token).compute_signature(url, MultiDict(form))
    assert compute_signature(token, url, form) == signature
    assert RequestValidator(token).validate(url, MultiDict(form), signature) == is_valid_signature(token, url, form, signature)


@pytest.mark.parametrize("signed", HOSTS)
@pytest.mark.parametrize("called", HOSTS)
def test_ports_are_handled_as_by_twilios_library(signed: str, called: str) -> None:
    signature = RequestValidator("token").compute_signature(signed, {"a": "b"})
    assert is_valid_signature("token", called, {"a": "b"}, signature) == RequestValidator("token").validate(
        called, {"a": "b"}, signature
    )
