"""A crash is told in the words that an operator looks for."""

from __future__ import annotations

import pytest

from quarterdeck.lifecycle.crashes import LONGEST, crash_words

TRACE = """Traceback (most recent call last):
  File "engine.py", line 3, in <module>
    main()
{raised}
"""


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        ({"blame": "memory", "message": "killed by signal 9"}, "out of memory (killed by"),
        ({"message": "torch.OutOfMemoryError: CUDA out of memory. Tried"}, "torch.OutOfMemory"),
        ({"message": "exit code 1", "traceback": TRACE.format(raised="OSError: [Errno 98] x")},
         "port in use (exit code 1: OSError: [Errno 98] x)"),
        ({"message": "FileNotFoundError: no such file: /m/config.json"}, "model missing (FileNot"),
        ({"message": "", "traceback": TRACE.format(raised="ValueError: heads")},
         "ValueError: heads"),
        ({"reason": "StartTimeout", "message": "no answer"}, "StartTimeout (no answer)"),
        ({"message": "first line\nsecond line"}, "first line"),
    ],
)  # fmt: skip
def test_the_common_causes_are_named(failure: dict[str, str], said: str) -> None:
    words = crash_words(failure, "", "Failed")
    assert words.startswith(said) and "\n" not in words


def test_there_is_always_something_to_say_and_never_too_much() -> None:
    assert crash_words(None, "", "Lost") == "Lost"
    assert crash_words(None, "gone", "Lost") == "gone"
    assert len(crash_words({"message": "x" * 9999}, "", "")) == LONGEST
