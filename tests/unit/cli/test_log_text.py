"""What programs print reaches a terminal without harming it."""

from __future__ import annotations

import json
import re

import click
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.cli.log_text import RESET, for_terminal, plain
from quarterdeck.cli.logs import line_text, ranks
from quarterdeck.specs.resources import LogLine


@pytest.mark.parametrize(
    ("text", "piped", "shown"),
    [
        ("\x1b[1;32mok\x1b[0m done", "ok done", "\x1b[1;32mok\x1b[0m done" + RESET),
        ("\x1b[31mnever reset", "never reset", "\x1b[31mnever reset" + RESET),
        ("\x1b[2J\x1b[Hclear \x1b[3Aup\x1b[?25l", "clear up", "clear up"),
        ("\x1b]0;title\x07a\x1b]52;c;ZXZpbA==\x1b\\b", "ab", "ab"),
        ("\x1bP1$r\x1b\\device \x1b(0line\x1bc", "device line", "device line"),
        ("\x1b]unended", "unended", "unended"),
        ("bell\x07 back\x08 \x9b31m csi\x7f", "bell\\x07 back\\x08 \\x9b31m csi\\x7f", None),
        ("tab\tstays, é and 漢 too", "tab\tstays, é and 漢 too", None),
        ("\u202etxet\u2066", "\\u202etxet\\u2066", None),
        ("a\u2028b\x85c\rd", "a\\u2028b\\x85c\\x0dd", None),
    ],
)
def test_escapes(text: str, piped: str, shown: str | None) -> None:
    assert plain(text) == piped
    assert for_terminal(text) == (shown if shown is not None else piped)


@given(st.text(st.characters(codec="utf-8") | st.sampled_from("\x1b[]P;0m\x07\\\x9b"), max_size=60))
def test_whatever_comes_only_colours_reach_the_terminal(text: str) -> None:
    shown = for_terminal(text)
    rest = re.sub(r"\x1b\[[0-9;:]*m", "", shown)
    assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]", rest)
    assert "\x1b" not in shown or shown.endswith(RESET)
    assert not re.search("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]", plain(text))


def line(**fields: object) -> LogLine:
    return LogLine.model_validate(
        {"cursor": "0.1.0", "rank": 3, "epoch": 1, "at": 0.0, "line": "x", **fields}
    )


def test_lines_say_where_they_come_from() -> None:
    assert line_text(line(), "table", terminal=False).startswith("[r3 ")
    assert line_text(line(epoch=2, stream="setup"), "table", terminal=True).startswith(
        "[r3 e2 setup "
    )
    assert line_text(line(stream="notice", rank=-1), "table", terminal=False) == "-- x"


def test_json_keeps_the_text_and_spares_the_terminal() -> None:
    odd = line(line="\x1b[31m\x9b é")
    shown = line_text(odd, "json", terminal=True)
    assert shown.isascii() and json.loads(shown)["line"] == odd.line
    assert json.loads(line_text(odd, "json", terminal=False))["line"] == odd.line


def test_ranks_are_numbers_and_ranges() -> None:
    assert ranks(["0,2-4", "3"]) == [0, 2, 3, 4]
    for wrong in ("x", "4-2", "1-", "", "0-5000", "-1"):
        with pytest.raises((typer.Exit, click.exceptions.Exit)):
            ranks([wrong])
