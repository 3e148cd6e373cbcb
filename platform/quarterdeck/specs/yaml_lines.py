"""YAML 1.2 into plain JSON values that remember their lines.

Only what JSON has: no tags, no merge keys, no dates, no keys but text, no key twice. Anchors work
as long as they stay small.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ruamel.yaml import YAML, MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.composer import ComposerError
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from quarterdeck.specs.suggestions import dotted

MOST_NODES = 100_000
"""Values in one document, aliases counted as often as they are used."""
_TAG = "tag:yaml.org,2002:"
Location = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlProblem:
    """Something wrong at a line (counted from 1) and a field's path."""

    line: int
    path: str
    message: str


@dataclass
class YamlDocument:
    """One document: plain values, and the line of each path (`training.tokens` → 7)."""

    value: Any
    line: int
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[YamlProblem] = field(default_factory=list)

    def line_of(self, path: str) -> int:
        """The line of a path, or of the nearest thing around it that was written."""
        while path and path not in self.lines:
            cut = max(path.rfind("."), path.rfind("["))
            path = path[:cut] if cut > 0 else ""
        return self.lines.get(path, self.line)


def read_yaml(text: str) -> Iterator[YamlDocument]:
    """Every document of a text that is not empty. Broken syntax ends with one more document,
    that holds the problem."""
    yaml = YAML(typ="safe", pure=True)
    yaml.allow_duplicate_keys = True  # we say it ourselves, with a path, and go on
    try:
        for node in yaml.compose_all(text):
            if node is not None and not _is_null(node):
                yield _Reader(yaml.constructor).read(node)
    except RecursionError:
        yield _broken(1, "values are nested too deeply")
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = " ".join(part for part in (error.context, error.problem) if part)
        if isinstance(error, ComposerError):
            said = error.problem or said
        yield _broken((mark.line + 1) if mark else 1, f"not YAML: {said}")
    except YAMLError as error:
        yield _broken(1, f"not YAML: {' '.join(str(error).split())}")


def _broken(line: int, message: str) -> YamlDocument:
    return YamlDocument(None, line, problems=[YamlProblem(line, "", message)])


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.tag == f"{_TAG}null"


class _Reader:
    """Turns one document's nodes into values."""

    def __init__(self, constructor: SafeConstructor) -> None:
        self._constructor = constructor
        self._count = 0
        self._open: set[int] = set()

    def read(self, node: Node) -> YamlDocument:
        self._document = YamlDocument(None, node.start_mark.line + 1)
        self._document.value = self._value(node, ())
        return self._document

    def _problem(self, node: Node, location: Location, message: str) -> None:
        line = node.start_mark.line + 1
        self._document.problems.append(YamlProblem(line, dotted(location), message))

    def _value(self, node: Node, location: Location) -> Any:
        self._document.lines.setdefault(dotted(location), node.start_mark.line + 1)
        self._count += 1
        if self._count > MOST_NODES:
            if self._count == MOST_NODES + 1:
                self._problem(node, (), f"more than {MOST_NODES:,} values: split the file")
            return None
        if isinstance(node, ScalarNode):
            return self._scalar(node, location)
        if id(node) in self._open:
            self._problem(node, location, "an alias contains itself")
            return None
        self._open.add(id(node))
        try:
            if isinstance(node, SequenceNode) and node.tag == f"{_TAG}seq":
                items = enumerate(node.value)
                return [self._value(item, (*location, place)) for place, item in items]
            if isinstance(node, MappingNode) and node.tag == f"{_TAG}map":
                return self._mapping(node, location)
        finally:
            self._open.discard(id(node))
        self._problem(node, location, f"the tag {node.tag} is not supported: remove it")
        return None

    def _mapping(self, node: MappingNode, location: Location) -> dict[str, Any]:
        found: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = self._key(key_node, location)
            if key is None:
                continue
            here = (*location, key)
            if key in found:
                self._problem(
                    key_node, here, f"written twice, first in line {first[key]}: keep one"
                )
                continue
            first[key] = line
            self._document.lines[dotted(here)] = line
            found[key] = self._value(value_node, here)
        return found

    def _key(self, node: Node, location: Location) -> str | None:
        if isinstance(node, ScalarNode) and node.tag == f"{_TAG}str":
            return self._text(node, location)
        if isinstance(node, ScalarNode) and node.tag == f"{_TAG}merge":
            message = "`<<` is not part of YAML 1.2: write the fields out"
        elif isinstance(node, ScalarNode):
            message = f"the key {node.value} is not text: put it into quotes"
        else:
            message = "a key must be text"
        self._problem(node, location, message)
        return None

    def _text(self, node: ScalarNode, location: Location) -> str:
        """Text; JSON's escaped pairs of surrogates, which YAML does not know, become one."""
        text = str(node.value)
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            self._problem(node, location, "holds half of a character: write all of it")
            return ""

    def _scalar(self, node: ScalarNode, location: Location) -> Any:
        kind = str(node.tag).removeprefix(_TAG)
        if kind in ("str", "timestamp", "value"):
            return self._text(node, location)
        if kind == "null":
            return None
        try:
            if kind == "bool":
                return bool(self._constructor.construct_yaml_bool(node))
            if kind == "int":
                return int(self._constructor.construct_yaml_int(node))
            if kind == "float":
                number = float(self._constructor.construct_yaml_float(node))
                if math.isfinite(number):
                    return number
                self._problem(node, location, f"{node.value} is not a finite number")
                return None
        except (ValueError, YAMLError):
            self._problem(node, location, f"{node.value} is not a number: put text into quotes")
            return None
        self._problem(node, location, f"the tag {node.tag} is not supported: remove it")
        return None
