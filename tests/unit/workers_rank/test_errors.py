from __future__ import annotations

import errno
from pathlib import Path

import pytest

from quarterdeck_workers.rank.errors import DataError, OutOfMemory, blame_of
from quarterdeck_workers.rank.launch import scrubbed, write_secrets
from quarterdeck_workers.rank.oom import oom_kills


@pytest.mark.parametrize(
    ("error", "blame"),
    [
        (DataError("shard 3 is short"), "data"),
        (OutOfMemory("12 GiB wanted"), "memory"),
        (MemoryError(), "memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk"),
        (OSError(errno.ENOENT, "No such file"), "unknown"),
        (ConnectionResetError(), "network"),
        (RuntimeError("[gloo/transport] Connection closed by peer"), "network"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory"),
        (RuntimeError("shapes differ"), "unknown"),
        (ValueError("no"), "unknown"),
    ],
)
def test_blame(error: BaseException, blame: str) -> None:
    assert blame_of(error) == blame


def test_blame_follows_the_chain_of_causes_even_in_a_ring() -> None:
    inner, outer = OSError(errno.ENOSPC, "full"), RuntimeError("could not save")
    outer.__cause__ = inner
    assert blame_of(outer) == "disk"
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert blame_of(first) == "unknown"


def test_oom_counters_of_both_generations_of_control_groups(tmp_path: Path) -> None:
    def write(path: str, text: str) -> None:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    assert oom_kills(tmp_path) == 0
    write("proc/vmstat", "oom_kill 2\npgfault 7\n")
    write("proc/self/cgroup", "4:memory:/job\n0::/new\n")
    write("sys/fs/cgroup/memory/job/memory.oom_control", "under_oom 0\noom_kill 3\n")
    write("sys/fs/cgroup/new/memory.events", "oom 9\noom_kill 5\n")
    assert oom_kills(tmp_path) == 10


def test_people_never_see_the_credentials_of_the_platform() -> None:
    environment = {
        "RAY_AUTH_TOKEN_PATH": "/x", "QUARTERDECK_KEY": "k", "QUARTERDECK_HOME": "/h",
        "QUARTERDECK_INSTANCE": "mark", "HOME": "/root", "OMP_NUM_THREADS": "8",
    }  # fmt: skip
    kept = scrubbed(environment)
    assert set(kept) == {"QUARTERDECK_INSTANCE", "HOME", "PATH"}


def test_secrets_are_private_files(tmp_path: Path) -> None:
    write_secrets(tmp_path / "secrets", {"TOKEN": "value"})
    file = tmp_path / "secrets" / "TOKEN"
    assert file.read_text() == "value"
    assert file.stat().st_mode & 0o777 == 0o400
    assert file.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ValueError, match="plain file name"):
        write_secrets(tmp_path / "secrets", {"../x": "value"})
