"""Expand, then contract: no migration takes away or forbids what the version before it does."""

import ast
from pathlib import Path

import pytest

import migrations

VERSIONS = sorted((Path(migrations.__file__).parent / "versions").glob("*.py"))
# To contract is right once no version that runs needs it any more: name the migration, and the release that ended the need.
CONTRACTING: dict[str, str] = {}
TAKING_AWAY = {"drop_column", "drop_table", "rename_table"}
TAKING_AWAY_IN_SQL = ("DROP TABLE", "DROP COLUMN", "RENAME", "SET NOT NULL", "TRUNCATE TABLE")


def harms(source: str) -> list[str]:
    """What `upgrade` does that the version before may not survive."""
    (upgrade,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "upgrade")
    calls = (node for node in ast.walk(upgrade) if isinstance(node, ast.Call))
    return [ast.unparse(call) for call in calls if isinstance(call.func, ast.Attribute) and _harms(call.func.attr, call)]


def _harms(operation: str, call: ast.Call) -> bool:
    written = ast.unparse(call)
    named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    match operation:
        case "alter_column":
            return bool(named.keys() & {"new_column_name", "type_"}) or named.get("nullable") == "False"
        case "add_column":
            return "nullable=True" not in written and "server_default" not in written
        case "execute":
            return any(words in written.upper() for words in TAKING_AWAY_IN_SQL)
        case _:
            return operation in TAKING_AWAY


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.stem)
def test_a_migration_only_expands(version: Path) -> None:
    if version.stem not in CONTRACTING:
        assert harms(version.read_text()) == []


@pytest.mark.parametrize(
    "statement",
    [
        'op.drop_column("call", "status")',
        'op.drop_table("call")',
        'op.rename_table("call", "dial")',
        'op.alter_column("call", "status", new_column_name="state")',
        'op.alter_column("call", "status", nullable=False)',
        'op.alter_column("call", "status", type_=sa.Integer())',
        'op.add_column("call", sa.Column("x", sa.Text(), nullable=False))',
        'op.execute("ALTER TABLE call ALTER COLUMN status SET NOT NULL")',
        'op.execute("ALTER TABLE call RENAME COLUMN status TO state")',
    ],
)
def test_what_the_version_before_does_not_survive_is_seen(statement: str) -> None:
    assert harms(f"def upgrade() -> None:\n    {statement}\n") != []
    assert harms(f"def upgrade() -> None:\n    pass\ndef downgrade() -> None:\n    {statement}\n") == []
