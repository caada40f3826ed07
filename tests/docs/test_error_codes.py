"""Tests that docs/errors.md lists every `code` of an entry in `errors`. Clients depend on these codes."""

import ast
import re

from tests.docs.test_structure import ROOT, modules

# The place of the code among the arguments.
CODE_POSITION = {"PydanticCustomError": 0, "FieldError": 1}
PYDANTICS = {"dict_type"}


def codes_of(tree: ast.Module) -> set[str]:
    codes = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            position = CODE_POSITION.get(node.func.id, len(node.args))
            for argument in node.args[position : position + 1]:
                if isinstance(argument, ast.Constant):
                    codes.add(str(argument.value))
    return codes


def test_the_codes_of_faults_are_documented() -> None:
    made = {code for tree in modules("app").values() for code in codes_of(tree)}
    (written,) = re.findall(r"`code` in `errors` is for programs.*?\n\n", (ROOT / "docs/errors.md").read_text(), re.DOTALL)
    documented = set(re.findall(r"`([a-z_0-9]+)`", written)) - {
        "code",
        "errors",
        "url_address_refused",
        "invalid_sid",
        "string_too_long",
    }
    assert documented == (made - PYDANTICS) | {"missing", "unknown_member"}
