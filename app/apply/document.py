"""Reads a YAML or JSON document into plain values, with the line number of each value. Works for any kind of document.

Tags, merge keys and repeated member names are refused. The number of values is limited; an alias counts as all values that it
stands for. Error texts never contain text of the document, which may be a secret.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from yaml.reader import Reader

MemberPath = tuple[str | int, ...]
"""The place of a value: names of members and indexes of list items, from the top of the document."""

MAX_FILE_BYTES: Final = 4 * 1024 * 1024
_MAX_DEPTH = 20
_MAX_VALUES = 500_000
_YAML_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONSTRUCTORS_BY_TAG: Final[dict[str, Any]] = {
    "tag:yaml.org,2002:null": yaml.SafeLoader.construct_yaml_null,
    "tag:yaml.org,2002:bool": yaml.SafeLoader.construct_yaml_bool,
    "tag:yaml.org,2002:int": yaml.SafeLoader.construct_yaml_int,
    "tag:yaml.org,2002:float": yaml.SafeLoader.construct_yaml_float,
}
_MEMBER_NAME = re.compile(r"[A-Za-z_]{1,40}")
# What PyYAML quotes from the document.
_QUOTED_TEXT = re.compile(r"\s*'[^']*'")
# JSON may escape a character as a surrogate pair, which YAML may not.
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


@dataclass(frozen=True, slots=True)
class FileProblem:
    """An error in the document, or a notice about a part of it. `text` describes it, and contains no value of the document."""

    text: str
    path: MemberPath = ()
    line: int | None = None
    """The line of the error. None if the error is in the line at which the value at `path` begins."""


class DocumentInvalid(Exception):
    def __init__(self, *problems: FileProblem) -> None:
        super().__init__()
        self.problems = problems


@dataclass(slots=True)
class Document:
    value: Any
    lines: dict[MemberPath, int] = field(default_factory=dict)

    def line_of(self, path: MemberPath) -> int:
        """Returns the number of the line, from 1, at which the value at `path` begins.

        If the document has no value at `path`, returns the line of the nearest parent that exists.
        """
        return next((self.lines[path[:end]] for end in range(len(path), -1, -1) if path[:end] in self.lines), 1)


def read_document(content: bytes) -> Document:
    """Parses one YAML or JSON document. Raises DocumentInvalid if the document is malformed or too large."""
    if len(content) > MAX_FILE_BYTES:
        raise DocumentInvalid(FileProblem(f"the file is larger than {MAX_FILE_BYTES // 1024**2} MiB"))
    text = _decode(content)
    if text.lstrip().startswith("{"):
        try:
            document = _parse_yaml(_SURROGATE_ESCAPE.sub(r"\\u0041", text.replace("\t", " ")))
            return Document(json.loads(text), document.lines)
        except ValueError:
            pass  # YAML may begin with a brace, too
    return _parse_yaml(text)


def member_path_text(path: MemberPath) -> str:
    """Returns the path as text for people, such as `tenants[0].accounts[1].auth_token`.

    A name that is not a valid member name becomes `…`, because it may be a misplaced secret.
    """
    parts = (f"[{part}]" if isinstance(part, int) else f".{part if _MEMBER_NAME.fullmatch(part) else '…'}" for part in path)
    return "".join(parts).removeprefix(".")


def _decode(content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DocumentInvalid(FileProblem("the file is not UTF-8", line=content[: error.start].count(b"\n") + 1)) from None
    if unprintable := Reader.NON_PRINTABLE.search(text):
        line = text[: unprintable.start()].count("\n") + 1
        raise DocumentInvalid(FileProblem("a control character is not allowed", line=line))
    return text


def _parse_yaml(text: str) -> Document:
    loader = _YAML_LOADER(text)
    try:
        return _DocumentBuilder(loader).build()
    except yaml.MarkedYAMLError as error:
        raise DocumentInvalid(_syntax_problem(text, error)) from None
    finally:
        loader.dispose()


def _syntax_problem(text: str, error: yaml.MarkedYAMLError) -> FileProblem:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return FileProblem("this is not valid YAML")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        return FileProblem("a tab indents this line: YAML is indented with spaces", line=mark.line + 1)
    begun = error.context_mark.line + 1 if error.context_mark else mark.line + 1
    reason = f"{_QUOTED_TEXT.sub('', error.problem or 'unreadable')} (column {mark.column + 1})"
    if begun <= mark.line:
        reason += f" in what begins in line {begun}"
    return FileProblem(f"this is not valid YAML: {reason}", line=mark.line + 1)


class _DocumentBuilder:
    """Builds a document's values from the events of the YAML parser.

    Limits how deep values are nested, because a deeply nested document would exhaust the stack. Limits the number of values,
    too: each use of an alias counts all values that the alias stands for.
    """

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._document = Document(None)
        self._value_count = 0
        # The values with an anchor, and how many values each contains.
        self._values_by_anchor: dict[str, tuple[Any, int]] = {}

    def build(self) -> Document:
        self._loader.get_event()  # the stream's start
        started = self._loader.get_event()
        if not isinstance(started, yaml.StreamEndEvent):
            self._document.value = self._build_value(self._loader.get_event(), ())
            self._loader.get_event()  # the document's end
            following = self._loader.get_event()
            if not isinstance(following, yaml.StreamEndEvent):
                raise _error_at_yaml_event(following, (), "a second document begins: a file has one")
        return self._document

    def _build_value(self, event: Any, path: MemberPath) -> Any:
        if len(path) > _MAX_DEPTH:
            raise _error_at_yaml_event(event, path[:_MAX_DEPTH], f"values are nested more than {_MAX_DEPTH} deep")
        self._document.lines.setdefault(path, event.start_mark.line + 1)
        if isinstance(event, yaml.AliasEvent):
            return self._aliased_value(event, path)
        if event.tag not in (None, "!"):
            raise _error_at_yaml_event(event, path, "tags (!) are not supported: write the value alone, or in quotes")
        before = self._value_count
        self._count_values(1, event, path)
        if isinstance(event, yaml.SequenceStartEvent):
            value: Any = [
                self._build_value(item, (*path, index))
                for index, item in enumerate(self._yaml_events_until(yaml.SequenceEndEvent))
            ]
        elif isinstance(event, yaml.MappingStartEvent):
            value = self._build_mapping(path)
        else:
            value = self._build_scalar(event, path)
        if event.anchor is not None:
            self._values_by_anchor[event.anchor] = value, self._value_count - before
        return value

    def _aliased_value(self, event: Any, path: MemberPath) -> Any:
        if event.anchor not in self._values_by_anchor:
            raise _error_at_yaml_event(
                event, path, "this alias (*) has no anchor (&) before it: put text that begins with * in quotes"
            )
        value, count = self._values_by_anchor[event.anchor]
        self._count_values(count, event, path)
        return value

    def _count_values(self, count: int, event: Any, path: MemberPath) -> None:
        """Adds `count` to the number of values in the document. Raises DocumentInvalid if the number exceeds the maximum.

        `event` and `path` say where the error is.
        """
        self._value_count += count
        if self._value_count > _MAX_VALUES:
            raise _error_at_yaml_event(event, path, f"the file has more than {_MAX_VALUES} values, aliases written out")

    def _build_mapping(self, path: MemberPath) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key in self._yaml_events_until(yaml.MappingEndEvent):
            if not isinstance(key, yaml.ScalarEvent) or key.anchor is not None or key.tag is not None:
                raise _error_at_yaml_event(key, path, "the name of a member must be plain text")
            name = str(key.value)
            if name == "<<" and key.implicit[0]:
                raise _error_at_yaml_event(key, path, "merge keys (<<) are not supported: write the members out")
            if name in values:
                first = self._document.line_of((*path, name))
                raise _error_at_yaml_event(key, (*path, name), f"this member is given twice: the first time in line {first}")
            self._document.lines[*path, name] = key.start_mark.line + 1
            values[name] = self._build_value(self._loader.get_event(), (*path, name))
        return values

    def _yaml_events_until(self, end: type) -> Iterator[Any]:
        while not isinstance(event := self._loader.get_event(), end):
            yield event

    def _build_scalar(self, event: Any, path: MemberPath) -> Any:
        tag = self._loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        construct = _CONSTRUCTORS_BY_TAG.get(tag)
        if construct is None:
            return event.value
        try:
            return construct(self._loader, yaml.ScalarNode(tag, event.value))
        except ValueError:
            raise _error_at_yaml_event(event, path, "this number cannot be read: put text in quotes") from None


def _error_at_yaml_event(event: Any, path: MemberPath, text: str) -> DocumentInvalid:
    return DocumentInvalid(FileProblem(text, path, event.start_mark.line + 1))
