"""Converts phone numbers to E.164 from the forms in which people write them. Does no I/O.

Twilio recommends E.164 (https://help.twilio.com/articles/223183008). An older edition of the Calls reference says that Twilio
also accepts unformatted US numbers such as (415) 555-1212 and 415-555-1212. docs/migrating.md has a table of the accepted
forms.
"""

import re

E164_PATTERN = re.compile(r"\+[1-9][0-9]{1,14}")

_NUMBER_WITH_SEPARATORS = re.compile(r"\+?[0-9 ().-]{1,40}")
_SEPARATORS = re.compile(r"[ ().-]")
_US_NUMBER = re.compile(r"1?([2-9][0-9]{2}[2-9][0-9]{6})")
# Digits that may be a number outside the US, with its country code but without the `+`.
_INTERNATIONAL_DIGITS = re.compile(r"[2-9][0-9]{7,14}")
_INTERNATIONAL_PREFIX = re.compile(r"(?:\+|00|011)(?=[1-9])")
# In "+44 (0)20 …" the zero in parentheses is not dialled after a country code.
_TRUNK_ZERO = re.compile(r"\( ?0 ?\)")


def parse_phone_number(text: str) -> str | None:
    """Returns the number in E.164, or None if the text is not a number or can mean two numbers.

    The text may be an E.164 number with separators, or a US number with or without the leading 1. Returns None if separators
    show that a national (trunk) prefix follows the country code, as in "+44 (020) …". A leading space may be a `+` that a
    client did not percent-encode, so the text is read with and without a `+`. Returns None if this gives two different numbers.
    """
    bare = text.lstrip(" ")
    readings = {number for number in map(_to_e164, (bare, "+" + bare) if text != bare else (text,)) if number}
    number = readings.pop() if len(readings) == 1 else None
    if number and _SEPARATORS.search(bare) and _without_national_prefix(number) not in (number, None):
        return None
    return number


def guess_phone_number(text: str) -> str | None:
    """Returns the E.164 number that the text probably means, or None. Use it only as a hint in a message; never dial it."""
    digits = _SEPARATORS.sub("", _TRUNK_ZERO.sub("", text.strip().removeprefix("tel:").replace("/", "")))
    number = parse_phone_number(digits)
    if number is None and (prefix := _INTERNATIONAL_PREFIX.match(digits)):
        number = parse_phone_number("+" + digits[prefix.end() :])
    elif number is None and _INTERNATIONAL_DIGITS.fullmatch(digits):
        number = f"+{digits}"
    return number and (_without_national_prefix(number) or number)


def _to_e164(text: str) -> str | None:
    """Removes the separators from the text, and returns the number in E.164. Returns None if the text is not a number."""
    if not _NUMBER_WITH_SEPARATORS.fullmatch(text) or _TRUNK_ZERO.search(text):
        return None
    digits = _SEPARATORS.sub("", text)
    if E164_PATTERN.fullmatch(digits):
        return digits
    us = _US_NUMBER.fullmatch(digits)
    return f"+1{us[1]}" if us else None


def _without_national_prefix(number: str) -> str | None:
    """Returns the E.164 number without the national (trunk) prefix of its country.

    Returns None if the number does not begin with a country code.
    """
    # Imported only here, because importing phonenumbers takes 70 ms and 9 MB. Only numbers with separators and hints need it.
    from phonenumbers import NumberParseException, PhoneNumberFormat, format_number, parse

    try:
        return format_number(parse(number), PhoneNumberFormat.E164)
    except NumberParseException:
        return None


def stored_address_variants(text: str) -> tuple[str, ...]:
    """Returns the forms in which stored calls may hold an address. A list filter must search for all of them.

    A leading space counts as `+`, because a `+` that is not percent-encoded in a query string arrives as a space. A phone
    number is searched for in E.164 and as the client wrote it. Numbers are stored in E.164, but the `from` of a SIP call may be
    stored as digits alone.
    """
    plus = f"+{text[1:]}" if text.startswith(" ") else text
    if not _NUMBER_WITH_SEPARATORS.fullmatch(plus):
        return (text.replace(" ", "+"),)
    digits = _SEPARATORS.sub("", plus)
    return tuple(dict.fromkeys((plus, parse_phone_number(plus) or f"+{digits.removeprefix('+')}")))
