"""From files to documents: every mistake is found at once, with file, line and field."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from quarterdeck.specs.kinds import AnyJob, ServiceSpec
from quarterdeck.specs.suggestions import DocumentError, parse_document
from quarterdeck.specs.yaml_lines import YamlDocument, read_yaml

SUFFIXES = (".yaml", ".yml", ".json")
LONGEST_TEXT = 10_000_000
"""Characters of one file; the api's limit of a body is of the same order."""


@dataclass(frozen=True)
class LoadProblem:
    """One mistake. `line` counts from 1; 0 is the file as a whole."""

    source: str
    line: int
    path: str
    message: str

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}" if self.line else self.source
        return f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"


class LoadError(ValueError):
    """Documents are wrong; `problems` names all mistakes in the order of files and lines."""

    def __init__(self, problems: Sequence[LoadProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = list(problems)


@dataclass(frozen=True)
class LoadedDocument:
    """One valid document."""

    data: dict[str, Any]
    """As it was written, in JSON's types: what REST takes."""
    spec: AnyJob | ServiceSpec
    source: str
    line: int
    lines: dict[str, int] = field(default_factory=dict, repr=False, compare=False)
    """The line of each field's path."""

    @property
    def noun(self) -> str:
        """`job/NAME` or `service/NAME`."""
        return f"{'service' if self.spec.kind == 'service' else 'job'}/{self.spec.name}"


def load_documents(text: str, source: str) -> list[LoadedDocument]:
    """Read and check every document of a YAML (or JSON) text.

    `source` names the text in messages. Raises LoadError with all mistakes.
    """
    loaded: list[LoadedDocument] = []
    problems: list[LoadProblem] = []
    _collect(text, source, loaded, problems)
    _finish(loaded, problems, source)
    return loaded


def load_paths(paths: Iterable[str | Path], stdin: TextIO | None = None) -> list[LoadedDocument]:
    """Read and check files, folders (their .yaml, .yml and .json files, at every depth, without
    those that begin with a dot or lie in such folders) and `-` for `stdin`. Raises LoadError with
    the mistakes of all of them."""
    loaded: list[LoadedDocument] = []
    problems: list[LoadProblem] = []
    names = [str(path) for path in paths]
    for name in names:
        for source, text in _texts(name, stdin, problems):
            _collect(text, source, loaded, problems)
    _finish(loaded, problems, ", ".join(names))
    return loaded


def _texts(
    name: str, stdin: TextIO | None, problems: list[LoadProblem]
) -> Iterator[tuple[str, str]]:
    if name == "-" and stdin is not None:
        yield "<stdin>", stdin.read(LONGEST_TEXT + 1)
        return
    path = Path(name)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if _is_ours(file, path))
        if not files:
            problems.append(LoadProblem(name, 0, "", f"has no {', '.join(SUFFIXES)} files"))
    for file in files:
        try:
            with file.open(encoding="utf-8") as stream:
                yield str(file), stream.read(LONGEST_TEXT + 1)
        except UnicodeDecodeError as error:
            problems.append(LoadProblem(str(file), 0, "", f"is not UTF-8 text: {error.reason}"))
        except OSError as error:
            problems.append(LoadProblem(str(file), 0, "", f"cannot be read: {error.strerror}"))


def _is_ours(file: Path, folder: Path) -> bool:
    inside = file.relative_to(folder).parts
    hidden = any(part.startswith(".") for part in inside)
    return file.suffix in SUFFIXES and not hidden and not file.is_dir()


def _collect(
    text: str, source: str, loaded: list[LoadedDocument], problems: list[LoadProblem]
) -> None:
    if len(text) > LONGEST_TEXT:
        message = f"is longer than {LONGEST_TEXT:,} characters: split it"
        problems.append(LoadProblem(source, 0, "", message))
        return
    for document in read_yaml(text):
        problems += [
            LoadProblem(source, problem.line, problem.path, problem.message)
            for problem in document.problems
        ]
        if document.value is None:
            continue
        try:
            spec = parse_document(document.value, "")
        except DocumentError as error:
            problems += _without_repeats(source, document, error)
            continue
        if not document.problems:
            data = document.value
            loaded.append(LoadedDocument(data, spec, source, document.line, document.lines))


def _without_repeats(
    source: str, document: YamlDocument, error: DocumentError
) -> Iterator[LoadProblem]:
    """The problems of a document, without those that follow from what YAML already showed."""
    shown = {problem.path for problem in document.problems}
    for problem in error.errors:
        if problem.path not in shown:
            line = document.line_of(problem.path)
            yield LoadProblem(source, line, problem.path, problem.message)


def _finish(loaded: list[LoadedDocument], problems: list[LoadProblem], source: str) -> None:
    first: dict[tuple[str, str], LoadedDocument] = {}
    for document in loaded:
        key = (document.spec.project, document.noun)
        if key in first:
            other = first[key]
            message = f"{document.noun} is in {other.source}:{other.line} too: rename one"
            line = document.lines.get("name", document.line)
            problems.append(LoadProblem(document.source, line, "name", message))
        first.setdefault(key, document)
    if not loaded and not problems:
        problems.append(LoadProblem(source, 0, "", "has no documents: start with `kind:`"))
    if problems:
        order = {
            name: place for place, name in enumerate(dict.fromkeys(p.source for p in problems))
        }
        raise LoadError(sorted(problems, key=lambda p: (order[p.source], p.line)))
