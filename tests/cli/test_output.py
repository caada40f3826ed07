"""Commands print results as text. A name that a client has chosen always stays in its own line."""

import pytest

from app.cli.output import show_table, show_values

NAME = "Support\nforged   admin\x1b[2J\u202e"
SHOWN = r"Support\nforged   admin\x1b[2J\u202e"


def test_a_name_with_control_characters_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    show_table([{"id": "support", "name": NAME}], columns=("id", "name"), as_json=False)
    assert capsys.readouterr().out.splitlines() == ["ID       NAME", f"support  {SHOWN}"]
    show_values({"name": NAME, "events": [NAME], "note": "Zoë 电话"}, as_json=False)
    assert capsys.readouterr().out.splitlines() == [f"name    {SHOWN}", f"events  {SHOWN}", "note    Zoë 电话"]
