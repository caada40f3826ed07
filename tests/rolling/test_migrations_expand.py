"""Tests that no migration removes or forbids anything that the previous version still uses (expand and contract)."""

import ast
from pathlib import Path

import pytest

import migrations

VERSIONS = sorted((Path(migrations.__file__).parent / "versions").glob("*.py"))
# A migration may contract once no running version needs the old schema. Maps its name to the release that ended the need.
CONTRACTING_MIGRATIONS: dict[str, str] = {}
DESTRUCTIVE = {"drop_column", "drop_table", "rename_table"}
DESTRUCTIVE_SQL = ("DROP TABLE", "DROP COLUMN", "RENAME", "SET NOT NULL", "TRUNCATE TABLE")


def incompatible_operations(source: str) -> list[str]:
    """Returns the operations of `upgrade` that may break the previous version."""
    (upgrade,) = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.name == "upgrade")
    calls = (node for node in ast.walk(upgrade) if isinstance(node, ast.Call))
    return [
        ast.unparse(call) for call in calls if isinstance(call.func, ast.Attribute) and _is_incompatible(call.func.attr, call)
    ]


def _is_incompatible(operation: str, call: ast.Call) -> bool:
    written = ast.unparse(call)
    named = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    match operation:
        case "alter_column":
            return bool(named.keys() & {"new_column_name", "type_"}) or named.get("nullable") == "False"
        case "add_column":
            return "nullable=True" not in written and "server_default" not in written
        case "execute":
            return any(words in written.upper() for words in DESTRUCTIVE_SQL)
        case _:
            return operation in DESTRUCTIVE


@pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.stem)
def test_a_migration_only_expands(version: Path) -> None:
    if version.stem not in CONTRACTING_MIGRATIONS:
        assert incompatible_operations(version.read_text()) == []


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
def test_incompatible_operations_are_detected(statement: str) -> None:
    assert incompatible_operations(f"def upgrade() -> None:\n    {statement}\n") != []
    assert incompatible_operations(f"def upgrade() -> None:\n    pass\ndef downgrade() -> None:\n    {statement}\n") == []
