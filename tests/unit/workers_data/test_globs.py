from __future__ import annotations

import pytest

from quarterdeck_workers.data.globs import glob_expression, selected


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("**/*.py", "a.py", True),
        ("**/*.py", "b/c/a.py", True),
        ("**/*.py", "a.pyc", False),
        ("*.py", "b/a.py", False),
        ("**/*", "b/c/.hidden", True),
        ("**/test/**", "x/test/y/z.py", True),
        ("**/test/**", "x/tests/y.py", False),
        ("lib/**/z.txt", "lib/z.txt", True),
        ("?.txt", "ab.txt", False),
        ("[ab].txt", "b.txt", True),
        ("[!ab].txt", "b.txt", False),
        ("a+b (1).txt", "a+b (1).txt", True),
        ("odd[", "odd[", True),
    ],
)
def test_patterns(pattern: str, path: str, found: bool) -> None:
    assert bool(glob_expression(pattern).fullmatch(path)) is found


def test_exclude_wins() -> None:
    assert selected("a/b.py", ["**/*.py"], [])
    assert not selected("a/b.py", ["**/*.py"], ["a/**"])
    assert not selected("a/b.txt", ["**/*.py"], [])
