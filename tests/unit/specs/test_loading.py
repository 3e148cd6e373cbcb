"""Files into documents: YAML 1.2, and every mistake with file, line and field."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from quarterdeck.specs.loading import LoadError, LoadProblem, load_documents, load_paths
from quarterdeck.specs.yaml_lines import MOST_NODES, read_yaml

COMMAND = "kind: command\nname: hello\ncommand: echo\n"


def _problems(text: str) -> list[LoadProblem]:
    with pytest.raises(LoadError) as caught:
        load_documents(text, "f.yaml")
    return caught.value.problems


def _value(text: str) -> Any:
    (document,) = read_yaml(text)
    assert document.problems == []
    return document.value


def test_yaml_is_version_1_2() -> None:
    text = "{a: 3e-4, b: on, c: 22:00, d: yes, e: 0o17, f: 010, g: true, h: null, i: 2001-12-14}"
    assert _value(text) == {
        "a": 3e-4, "b": "on", "c": "22:00", "d": "yes", "e": 15, "f": 10, "g": True, "h": None,
        "i": "2001-12-14",
    }  # fmt: skip
    assert isinstance(_value("a: 3e-4")["a"], float)


def test_documents_keep_what_was_written() -> None:
    (document,) = load_documents(COMMAND + "max_duration: 5m\n", "f.yaml")
    assert document.data == {
        "kind": "command", "name": "hello", "command": "echo", "max_duration": "5m",
    }  # fmt: skip
    assert document.spec.model_dump()["max_duration"] == 300.0
    assert (document.noun, document.source, document.line) == ("job/hello", "f.yaml", 1)


def test_all_mistakes_come_at_once_in_order() -> None:
    text = """\
kind: command
name: x
commnd: echo
---
# a comment
kind: pretrain
name: y
architecture: llama-3-8b
datasets:
- name: a
  weigth: 2
parallelism: {data: 2, tensr: 2}
training:
  tokens: 3e-4
---
kind: srvice
name: z
"""
    assert [(problem.line, problem.path) for problem in _problems(text)] == [
        (1, "command"),
        (3, "commnd"),
        (11, "datasets[0].weigth"),
        (12, "parallelism.tensr"),
        (14, "training.tokens"),
        (16, "kind"),
    ]
    shown = [str(problem) for problem in _problems(text)]
    assert shown[1] == "f.yaml:3: commnd: 'commnd' is not a field here: did you mean 'command'?"
    assert "did you mean 'weight'?" in shown[2]
    assert "did you mean 'tensor'?" in shown[3]
    assert "0.0003 is not a count" in shown[4]
    assert "did you mean 'service'?" in shown[5]


def test_a_field_written_twice_is_refused_with_both_lines() -> None:
    (problem,) = _problems(COMMAND + "env:\n  A: x\n  A: y\n")
    assert str(problem) == "f.yaml:6: env.A: written twice, first in line 5: keep one"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        (COMMAND + "env: {a: [}\n", 4, "not YAML"),
        (COMMAND + "env: {8: x}\n", 4, "the key 8 is not text"),
        (COMMAND + "env: !!python/name:os.system x\n", 4, "is not supported"),
        (COMMAND + "ranks: .inf\n", 4, "not a finite number"),
        ("base: &b {a: 1}\n<<: *b\n" + COMMAND, 2, "`<<` is not part of YAML 1.2"),
        (COMMAND + "env: &e\n  a: *e\n", 4, "contains itself"),
        (COMMAND + "env: *nothing\n", 4, "nothing"),
        (COMMAND + 'env: {a: "\\ud83d"}\n', 4, "half of a character"),
        ("- a\n- b\n", 1, "is not a document"),
        ("just text\n", 1, "is not a document"),
        ("name: x\n", 1, "kind is missing"),
    ],
)
def test_what_is_no_document_is_said_at_its_line(text: str, line: int, said: str) -> None:
    problems = _problems(text)
    assert any(problem.line == line and said in problem.message for problem in problems), problems


def test_aliases_cannot_explode() -> None:
    bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
    )
    assert any(f"more than {MOST_NODES:,} values" in problem.message for problem in _problems(bomb))


def test_deep_nesting_is_refused() -> None:
    (problem,) = _problems("[" * 5000)
    assert "nested too deeply" in problem.message or "not YAML" in problem.message


def test_an_empty_text_says_how_to_begin() -> None:
    (problem,) = _problems("# nothing\n---\n")
    assert str(problem) == "f.yaml: has no documents: start with `kind:`"


def test_a_name_in_two_documents_is_refused() -> None:
    (problem,) = _problems(COMMAND + "---\n" + COMMAND)
    assert (problem.line, problem.path) == (6, "name")
    assert "job/hello is in f.yaml:1 too" in problem.message


def test_a_job_and_a_service_may_share_a_name() -> None:
    loaded = load_documents(COMMAND + "---\nkind: service\nname: hello\nmodel: m\n", "f.yaml")
    assert [document.noun for document in loaded] == ["job/hello", "service/hello"]


def test_files_folders_and_stdin(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.yaml").write_text(COMMAND)
    (tmp_path / "deep" / "b.yml").write_text(COMMAND.replace("hello", "two"))
    (tmp_path / "c.json").write_text(json.dumps({"kind": "command", "name": "c", "command": "x"}))
    (tmp_path / "notes.txt").write_text("not a document")
    stdin = io.StringIO(COMMAND.replace("hello", "piped"))
    loaded = load_paths([tmp_path, "-"], stdin)
    assert [document.spec.name for document in loaded] == ["hello", "c", "two", "piped"]
    assert loaded[-1].source == "<stdin>"


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "none.yaml", tmp_path / "binary.yaml", tmp_path / "empty"]
    with pytest.raises(LoadError) as caught:
        load_paths(paths)
    said = [str(problem) for problem in caught.value.problems]
    assert said[0] == f"{paths[0]}: cannot be read: No such file or directory"
    assert said[1].startswith(f"{paths[1]}: is not UTF-8 text")
    assert said[2] == f"{paths[2]}: has no .yaml, .yml, .json files"


def test_the_examples_are_valid() -> None:
    examples = Path(__file__).parents[3] / "examples"
    loaded = load_paths([examples])
    assert {document.spec.kind for document in loaded} >= {"pretrain", "tokenizer", "service"}
    for file in examples.rglob("*.yaml"):
        assert file.read_text().startswith("# yaml-language-server: $schema=../docs/schema.json")


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    # The writer leaves a leading question mark without quotes, which no reader takes for text.
    | TEXTS.filter(lambda text: not text.startswith("?")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.from_regex(r"[a-z]{3,8}", fullmatch=True), VALUES, min_size=1))
def test_what_a_yaml_writer_writes_reads_back_the_same(value: dict[str, Any]) -> None:
    stream = io.StringIO()
    YAML(typ="safe", pure=True).dump(value, stream)
    assert _value(stream.getvalue()) == value


@given(st.dictionaries(st.from_regex(r"[a-z]{3,8}", fullmatch=True), VALUES, min_size=1))
def test_json_is_yaml(value: dict[str, Any]) -> None:
    assert _value(json.dumps(value)) == value


@given(st.text(max_size=60))
def test_any_text_is_loaded_or_refused(text: str) -> None:
    try:
        assert load_documents(text, "f.yaml")
    except LoadError as error:
        assert error.problems and all(problem.source == "f.yaml" for problem in error.problems)


def test_a_folder_is_read_at_every_depth_without_what_is_hidden(tmp_path: Path) -> None:
    def put(name: str, text: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    put("b.yaml", COMMAND.replace("hello", "b") + "---\n" + COMMAND.replace("hello", "b2"))
    put("team/deep/a.yml", COMMAND.replace("hello", "a"))
    put("team/c.json", json.dumps({"kind": "command", "name": "c", "command": "echo"}))
    for hidden in (".github/workflows/ci.yml", "team/.cache/x.yaml", "team/.a.yaml", "readme.md"):
        put(hidden, "on: push\n")
    (tmp_path / "folder.yaml").mkdir()
    names = [document.spec.name for document in load_paths([tmp_path])]
    assert names == ["b", "b2", "c", "a"]
    assert len(load_paths([tmp_path / "team" / "deep"])) == 1
    with pytest.raises(LoadError, match="on"):  # named itself it is read
        load_paths([tmp_path / ".github"])
