"""`models add`: a folder in Hugging Face layout becomes a version of a model."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from quarterdeck.cli.follow import make
from quarterdeck.cli.session import USAGE, Project, connect, refuse

_WANTED = {
    "config.json": "the architecture",
    "*.safetensors": "the weights",
    "tokenizer*": "the tokenizer",
}


def add(
    name: Annotated[str, typer.Argument(help="The model's name.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="In Hugging Face layout.")],
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for it.")] = False,
    project: Project = None,
) -> None:
    """Register a folder in Hugging Face layout as a version of a model.

    A job copies it into the artifact store, so the machine that it runs on must have the folder
    too. The same folder unchanged makes no second version.

    Example: quarterdeck models add smollm2 ./SmolLM2-135M-Instruct
    """
    document = model_document(name, folder.expanduser().absolute())
    with connect(project) as client:
        make(client, document, wait=not no_wait)


def model_document(name: str, folder: Path) -> dict[str, Any]:
    """The job that copies a folder; ends the command where it is here and is no model."""
    document: dict[str, Any] = {
        "kind": "command",
        "name": name,
        "command": f"mkdir model && cp -RL -- {shlex.quote(str(folder))}/. model/",
        "outputs": {"model": "model"},
        "max_restarts": 0,
    }
    if not folder.exists():  # a machine may have it
        return document
    for pattern, what in _WANTED.items():
        if not any(folder.glob(pattern)):
            refuse(
                f"{folder}: has no {pattern}, {what}: give a folder that transformers' "
                "`save_pretrained` wrote, with model and tokenizer",
                USAGE,
            )
    return {**document, "labels": {"folder": _state(folder)}}


def _state(folder: Path) -> str:
    """What changes when a file does: the same job is not run again."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        seen = file.stat()
        digest.update(f"{file.relative_to(folder)}\0{seen.st_size}\0{seen.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
