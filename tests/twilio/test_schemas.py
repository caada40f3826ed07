"""Fast reading of answers and encoding of forms, compared with plain implementations."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.twilio.schemas import CallResource, encode_form, form_field_name, parse_storable_json, to_storable_json

SID = "CA" + "0" * 32
CHARACTERS = st.characters(codec=None, exclude_categories=())  # lone surrogates too
TEXT = st.text(CHARACTERS, max_size=20)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(["NaN", "[{" * 20, "\\", "\0"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=30,
)


def read_by_copy(body: bytes) -> Any:
    """Reads JSON like `parse_storable_json`, but always copies it."""
    try:
        return to_storable_json(json.loads(body))
    except (ValueError, RecursionError):
        return None


def nested(depth: int) -> bytes:
    return b'{"a":[' * (depth // 2) + b"1e999" + b"]}" * (depth // 2)


@given(DOCUMENTS, st.booleans(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]))
def test_read_json_gives_the_same_as_a_copy(document: Any, ascii_only: bool, encoding: str) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only).encode(encoding, "surrogatepass")
    assert repr(parse_storable_json(body)) == repr(read_by_copy(body))


@given(st.binary(max_size=50) | st.text('{}[]",:\\u0d8e+-.1NaInfinty \0\x7fé', max_size=30).map(str.encode))
@example(b'{"a":NaN,"b":[Infinity,-Infinity,1e999,-1e999,1.5,-0.0,1E400,1e5]}')
@example(b"[%s.0]" % (b"9" * 400))
@example(b"[%s]" % (b"9" * 400))
@example(b"[%s]" % (b"9" * 5000))
@example(b'{"a":1,"a":2}')
@example(b'{"a":1,"a\\u0000":2}')
@example(b'["\\ud800","\\ud83d\\ude00","\\u0000","a\\nb"]')
@example(b'["\xed\xa0\x80"]')
@example(b'["\xff"]')
@example(b'"a\0b"')
@example(b'"a\nb"')
@example(b"1")
@example(b"")
@example(b" {} ")
@example(b"{}x")
@example(b'\xef\xbb\xbf{"a":1}')
@example(b'{"braces":"' + b"{[" * 40 + b'"}')
def test_odd_json_is_read_like_a_copy(body: bytes) -> None:
    assert repr(parse_storable_json(body)) == repr(read_by_copy(body))


@pytest.mark.parametrize("depth", [28, 30, 32, 60, 100_000])
def test_the_limit_of_nesting_is_the_same(depth: int) -> None:
    assert repr(parse_storable_json(nested(depth))) == repr(read_by_copy(nested(depth)))


def fields_of(parameters: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (form_field_name(name), str(item).lower() if isinstance(item, bool) else str(item))
        for name, value in parameters.items()
        for item in (value if isinstance(value, list) else [value])
    ]


VALUES = st.text(max_size=30) | st.booleans() | st.integers()


@given(st.dictionaries(st.sampled_from(["to", "sip_auth_username", "url", "machine_detection"]), VALUES | st.lists(VALUES)))
@example({"to": "".join(map(chr, range(0x180)))})
@example({"status_callback_event": ["initiated", "in-progress", True], "record": False, "to": []})
def test_a_form_is_encoded_like_urlencode(parameters: dict[str, Any]) -> None:
    assert encode_form(parameters) == urlencode(fields_of(parameters)).encode()
    assert parse_qsl(encode_form(parameters).decode(), keep_blank_values=True) == fields_of(parameters)


def test_lone_surrogates_raise_unicode_encode_error() -> None:
    with pytest.raises(UnicodeEncodeError):
        encode_form({"to": "\ud800"})


def test_a_resource_keeps_the_whole_answer_and_reads_known_fields() -> None:
    answer = {"sid": SID, "raw": "not ours", "status": "queued", "duration": "x", "unknown": 1}
    resource = CallResource.parse_answer(answer)
    assert resource is not None
    assert (resource.raw, resource.status, resource.duration) == (answer, "queued", None)
    assert not hasattr(resource, "unknown")
