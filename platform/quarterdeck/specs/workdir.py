"""Where a user's program starts: an uploaded folder, or one that the machines have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from quarterdeck.specs.base import Spec

DIGEST = r"^[0-9a-f]{64}$"
PROVENANCE = ("folder", "commit", "dirty", "diff")
"""Fields of an upload that tell where it came from, not what it is."""


class Upload(Spec):
    """A folder that was uploaded: what the command line makes of `workdir: .`.

    `digest` and `size` are of its archive; `diff` is the digest of another upload, the text of
    what was not committed.
    """

    digest: str = Field(pattern=DIGEST)
    size: int = Field(ge=0, le=2**40)
    files: int = Field(default=0, ge=0, le=10**9)
    folder: str = Field(default="", max_length=4096)
    commit: str | None = Field(default=None, max_length=64)
    dirty: bool = False
    diff: str | None = Field(default=None, pattern=DIGEST)


def is_local(workdir: object) -> bool:
    """Whether this names a folder of whoever writes it, which must be uploaded first: a relative
    path, or one that starts with `~`. An absolute path or a URI is of the machines."""
    return isinstance(workdir, str) and "://" not in workdir and not workdir.startswith("/")


def identity(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without where its upload came from: the same bytes are the same job."""
    workdir = spec.get("workdir")
    if not isinstance(workdir, Mapping):
        return dict(spec)
    kept = {name: value for name, value in workdir.items() if name not in PROVENANCE}
    return {**spec, "workdir": kept}
