"""docs/sip.md explains every code, and its examples are correct."""

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from app.sip import SEVERITIES, Finding, Severity, SipUri, check_from_parameter, check_sip_auth
from tests.sip.test_public_cases import OUR_VERDICT

PAGE = (Path(__file__).parents[2] / "docs" / "sip.md").read_text()


class Row(NamedTuple):
    code: str
    severity: str
    example: str
    write: str


def unfolded(text: str) -> str:
    return re.sub(r"\{(\w)\*(\d+)\}", lambda repeat: repeat[1] * int(repeat[2]), text)


ROWS = [
    Row(found[1], found[2], unfolded(found[3].strip("`")), unfolded(found[4]))
    for found in re.finditer(r"^\| `([A-Z0-9_]+)` \| (\w+) \| (`[^`]*`) \| `([^`]+)` \| [^|]+ \|$", PAGE, re.MULTILINE)
]


def findings_of(example: str) -> tuple[Finding, ...]:
    if not example.startswith("{"):
        return SipUri.parse(example).findings
    parameters = json.loads(example)
    if "from" in parameters:
        return check_from_parameter(parameters["from"])
    found = check_sip_auth(parameters.get("sip_auth_username"), parameters.get("sip_auth_password"))
    return found.username + found.password


def test_the_page_explains_each_code_once() -> None:
    assert sorted(row.code for row in ROWS) == sorted(SEVERITIES)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.code) for row in ROWS])
def test_an_example_has_its_code_and_its_correction_does_not(row: Row) -> None:
    found = {finding.code: finding for finding in findings_of(row.example)}
    assert found[row.code].severity.value == row.severity
    mended = findings_of(row.write)
    assert row.code not in {finding.code for finding in mended}
    assert Severity.ERROR not in {finding.severity for finding in mended}


def test_the_page_lists_the_cases_in_which_callgate_differs() -> None:
    assert set(re.findall(r"^\| (sip-\d+) \|", PAGE, re.MULTILINE)) == set(OUR_VERDICT)
