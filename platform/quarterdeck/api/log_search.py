"""Looking for text in lines: as it is, or as a regular expression with a bound on its time."""

from __future__ import annotations

import re
from collections.abc import Callable

import regex

from quarterdeck.api.problems import ProblemError

LONGEST = 300
SECONDS_PER_LINE = 0.1
"""An expression that needs longer for one line is refused: some take for ever."""
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")


def matcher(search: str | None, *, as_regex: bool) -> Callable[[str], bool] | None:
    """Whether a line holds `search`, colours and other escapes aside; None: every line.

    Raises ProblemError `invalid_parameter`, later too: an expression may turn out too slow.
    """
    if search is None:
        return None
    if not as_regex:
        return lambda line: search in _plain(line)
    try:
        expression = regex.compile(search)
    except (regex.error, OverflowError, RecursionError) as error:
        raise ProblemError(
            "invalid_parameter", f"search: {search!r} is no regular expression: {error}"
        ) from error

    def found(line: str) -> bool:
        try:
            matched = expression.search(_plain(line), timeout=SECONDS_PER_LINE, concurrent=True)
        except TimeoutError as error:
            raise ProblemError(
                "invalid_parameter",
                f"search: {search!r} takes more than {SECONDS_PER_LINE:g} s for one line: write "
                "it without nested repetitions, or search for plain text",
            ) from error
        return matched is not None

    return found


def _plain(line: str) -> str:
    return _ESCAPES.sub("", line) if "\x1b" in line else line
