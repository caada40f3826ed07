"""Tests that docs/errors.md lists the codes that clients depend on: each `code` in `errors`, and Twilio's for parameters."""

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


def parameter_codes(text: str) -> set[int]:
    """Returns the codes of Twilio's in a text, such as 21206, and those of ranges such as 21221–21225."""
    ranges = re.findall(r"\b(\d{5})(?:–(\d{5}))?\b", text)
    return {code for first, last in ranges for code in range(int(first), int(last or first) + 1)}


def test_the_codes_of_twilio_for_parameters_are_documented() -> None:
    module = modules("app")["app/compat/error_codes.py"]
    of_problems = {id(part) for node in ast.walk(module) if is_call_of(node, "ErrorCode") for part in ast.walk(node)}
    used = {  # Codes of six digits are our own.
        node.value
        for node in ast.walk(module)
        if isinstance(node, ast.Constant) and node.value in range(10_000, 100_000) and id(node) not in of_problems
    }
    (row,) = re.findall(r"^\| `invalid-request` \| 400 \| 20422 \|(.*)$", (ROOT / "docs/errors.md").read_text(), re.MULTILINE)
    assert parameter_codes(row) == used


def is_call_of(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
