"""Limits of the code's structure: the length of modules and functions, one meaning for each name, and readable docstrings."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 60

LONG_FUNCTIONS = {
    "bench/competitors/life.py:create_app": "the competitor is written as a short service is, in one closure",
    "migrations/versions/2026-11-23-0702_tenants_and_calls.py:upgrade": "one list of statements, never edited again",
}
# A docstring that begins so leaves the reader to guess what the function does. Properties may say "Whether …".
_NO_VERB = re.compile(
    r"(?:Whether|What|How|Why|When|Where|To|Not|Only|The same|As|At|By|For|From|In|Into|Of|On|Over|Since|Under|Until|With"
    r"|Without|After|Before|Behind|Between|If|So|That|Those|Who|Whom|Whose|Which|Otherwise|Else|Elsewhere|Neither|Nor|And|But)\b"
)
# The first line of a comment.
_NO_SUBJECT = re.compile(r"^(?!\s*#).*\n(\s*# (?:So that|Those|Who|Whom|Whose|Otherwise|Else|Neither|Nor)\b.*)", re.MULTILINE)
# An endpoint has the name of its operation and a command that of its command; what they run may have the same verb.
_ENDPOINT_METHODS = {"get", "post", "put", "patch", "delete", "api_route"}
_COMMANDS = "app/cli/"


@cache
def modules(folder: str) -> dict[str, ast.Module]:
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in paths}


@pytest.mark.parametrize("folder", ["app", "simulator"])
def test_no_module_is_too_long(folder: str) -> None:
    assert not [path for path in modules(folder) if len((ROOT / path).read_text().splitlines()) > MAX_MODULE_LINES]


def test_no_function_is_too_long() -> None:
    long = {
        f"{path}:{function.name}"
        for folder in ("app", "simulator", "migrations", "bench", "tests")
        for path, module in modules(folder).items()
        for function in ast.walk(module)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and (function.end_lineno or 0) - function.lineno >= MAX_FUNCTION_LINES
    }
    assert long == set(LONG_FUNCTIONS)


def test_no_name_means_two_things() -> None:
    places: dict[str, set[str]] = defaultdict(set)
    for path, module in modules("app").items():
        for name in _named(path, module):
            places[name].add(path)
    shared = {name: sorted(paths) for name, paths in places.items() if len(paths) > 1}
    assert not shared


def test_patterns_that_ignore_case_compare_ascii_letters_only() -> None:
    """A Unicode pattern without case takes a dotless i for i, a long s for s, and the Kelvin sign for k."""
    flags = [
        (path, ast.unparse(call))
        for path, module in modules("app").items()
        for call in ast.walk(module)
        if isinstance(call, ast.Call) and "re.IGNORECASE" in {ast.unparse(node) for node in ast.walk(call)}
    ]
    assert flags
    assert not [(path, call) for path, call in flags if "re.ASCII" not in call]


@pytest.mark.parametrize("folder", ["app", "simulator", "migrations", "bench", "tests"])
def test_docstrings_of_functions_begin_with_a_verb_or_with_what_is_returned(folder: str) -> None:
    unclear = {
        f"{path}:{function.name}"
        for path, module in modules(folder).items()
        for function in ast.walk(module)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        and not any("property" in ast.unparse(decorator) for decorator in function.decorator_list)
        and _NO_VERB.match(ast.get_docstring(function) or "")
    }
    assert not unclear


@pytest.mark.parametrize("folder", ["app", "simulator", "migrations", "bench", "tests"])
def test_comments_begin_with_a_subject(folder: str) -> None:
    texts = {path: (ROOT / path).read_text() for path in modules(folder)}
    assert not {path: found for path, text in texts.items() if (found := _NO_SUBJECT.findall(text))}


def _named(path: str, module: ast.Module) -> Iterator[str]:
    """Yields the classes, the type aliases, and the public functions of a module."""
    for node in module.body:
        match node:
            case ast.ClassDef(name=name):
                yield name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if not (name.startswith("_") or path.startswith(_COMMANDS) or _is_endpoint(node)):
                    yield name
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if _is_type_name(name) and not _is_type_variable(value):
                yield name


def _is_endpoint(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    called = [decorator.func for decorator in function.decorator_list if isinstance(decorator, ast.Call)]
    return any(isinstance(method, ast.Attribute) and method.attr in _ENDPOINT_METHODS for method in called)


def _is_type_name(name: str) -> bool:
    return not name.startswith("_") and name[0].isupper() and not name.isupper()


def _is_type_variable(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) in {"TypeVar", "ParamSpec"}
