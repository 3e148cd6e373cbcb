"""What can go wrong with artifacts, each with its remedy in the message."""

from __future__ import annotations


class ArtifactError(Exception):
    """Reading or writing artifacts failed."""


class UnsafePath(ArtifactError, ValueError):
    """A path that would leave the store, or a URI outside it."""


class Corrupt(ArtifactError):
    """Bytes differ from their manifest; `files` names each bad file with what is wrong."""

    def __init__(self, where: str, files: dict[str, str]) -> None:
        shown = "; ".join(f"{path}: {what}" for path, what in list(files.items())[:5])
        more = f" and {len(files) - 5} more" if len(files) > 5 else ""
        super().__init__(f"{where} differs from its manifest: {shown}{more}")
        self.where = where
        self.files = files

    def __reduce__(self) -> tuple[type[Corrupt], tuple[str, dict[str, str]]]:
        return Corrupt, (self.where, self.files)


class DiskFull(ArtifactError, OSError):
    """The file system is full. `folder` is where, `needed` the bytes that did not fit."""

    blame = "disk"

    def __init__(self, folder: str, needed: int, free: int) -> None:
        super().__init__(
            f"no space left in {folder}: {needed:,} bytes needed, {free:,} free; "
            "delete old artifacts or set QUARTERDECK_ARTIFACTS to a larger place"
        )
        self.folder = folder
        self.needed = needed
        self.free = free

    def __reduce__(self) -> tuple[type[DiskFull], tuple[str, int, int]]:
        return DiskFull, (self.folder, self.needed, self.free)
