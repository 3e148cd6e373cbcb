"""Which files are sent: compared with what git itself would add."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.client.folders import FolderRefused, list_folder

GIT = {
    **os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CEILING_DIRECTORIES": "/",
}  # fmt: skip
NAMES = ["a", "b", "build", "x.py", "x.txt", "é"]
PATTERNS = [
    "*.py", "/x.txt", "build/", "!x.py", "*", "!*/", "a/b", "**/b", "a/**", "!a/b/x.py", "# note",
    "/*", "!/a", "b", "!build/", "[ab]", "x.???", "\\!x.py", "a/*/x.py", "é",
]  # fmt: skip
paths = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
ignores = st.dictionaries(
    st.sampled_from(["", "a", "a/b", "build", "b"]),
    st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=4),
    max_size=3,
)


def sent(folder: Path, **bounds: int) -> list[str]:
    return [entry.path for entry in list_folder(folder, **bounds).entries]


def write(folder: Path, *names: str, content: str = "x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


@settings(max_examples=60)
@given(files=st.sets(paths, max_size=12), rules=ignores)
def test_the_files_are_those_that_git_would_add(
    files: set[str], rules: dict[str, list[str]]
) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        for name in sorted(files, key=len, reverse=True):
            if not (root / name).exists():
                write(root, name)
        for place, lines in rules.items():
            if not (root / place).is_file() and not any(
                parent.is_file() for parent in (root / place).parents
            ):
                write(root, f"{place}/.gitignore" if place else ".gitignore",
                      content="\n".join(lines) + "\n")  # fmt: skip
        subprocess.run(["git", "init", "-q", root], env=GIT, check=True)
        listed = subprocess.run(
            ["git", "-C", root, "ls-files", "-z", "-co", "--exclude-standard"],
            env=GIT, check=True, capture_output=True,
        )  # fmt: skip
        assert sent(root) == sorted(filter(None, listed.stdout.decode().split("\0")))
    finally:
        shutil.rmtree(root)


def test_own_ignore_file_goes_before_gits_and_some_names_are_never_sent(tmp_path: Path) -> None:
    write(tmp_path, "a.py", "b.txt", ".git/config", ".quarterdeck/admin-key", "p/__pycache__/a.pyc",
          "p/a.py", "p/c.txt")  # fmt: skip
    (tmp_path / ".gitignore").write_text("*.py\n")
    (tmp_path / ".quarterdeckignore").write_text("*.txt\n")
    (tmp_path / "p" / ".gitignore").write_text("!c.txt\n")
    assert sent(tmp_path) == [".gitignore", ".quarterdeckignore", "a.py", "p/.gitignore", "p/a.py",
                              "p/c.txt"]  # fmt: skip


def test_ignore_files_of_the_repository_above_count_but_not_against_the_folder_itself(
    tmp_path: Path,
) -> None:
    write(tmp_path, ".git/HEAD", "sub/run/a.py", "sub/run/a.ckpt", "out/a.ckpt", "out/b")
    (tmp_path / ".gitignore").write_text("*.ckpt\n/out/\n")
    assert sent(tmp_path / "sub") == ["run/a.py"]
    assert sent(tmp_path / "out") == ["a.ckpt", "b"]
    shutil.rmtree(tmp_path / ".git")
    assert sent(tmp_path / "sub") == ["run/a.ckpt", "run/a.py"]


def test_what_is_too_large_is_refused_with_the_largest_folders(tmp_path: Path) -> None:
    write(tmp_path, "data/big/one.bin", content="x" * 3000)
    write(tmp_path, "model.bin", content="x" * 1000)
    write(tmp_path, "a.py")
    with pytest.raises(FolderRefused, match=r"data/ 2\.9 KiB, data/big/ 2\.9 KiB, model\.bin"):
        list_folder(tmp_path, most_bytes=2000)
    with pytest.raises(FolderRefused, match=r"\.quarterdeckignore"):
        list_folder(tmp_path, most_files=2)
    (tmp_path / ".quarterdeckignore").write_text("data\n")
    assert sent(tmp_path, most_bytes=2000) == [".quarterdeckignore", "a.py", "model.bin"]


def test_links_stay_inside_or_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "w/a.py", "outside")
    folder = tmp_path / "w"
    (folder / "alias.py").symlink_to("a.py")
    (folder / "dangling").symlink_to("later")
    found = {entry.path: entry.link for entry in list_folder(folder).entries}
    assert found == {"a.py": None, "alias.py": "a.py", "dangling": "later"}
    for target in ("../outside", str(folder / "a.py")):
        (folder / "bad").symlink_to(target)
        with pytest.raises(FolderRefused, match=r"bad -> .*\.quarterdeckignore"):
            list_folder(folder)
        (folder / "bad").unlink()
    with pytest.raises(FolderRefused, match="no folder"):
        list_folder(tmp_path / "missing")
