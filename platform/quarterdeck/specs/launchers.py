"""Programs that start ranks themselves, found in a command line. Pure.

A command under `launch: per_rank` is started once for each rank; a launcher there would start
ranks in each of them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import PurePosixPath

LAUNCHERS = frozenset(
    {"torchrun", "deepspeed", "mpirun", "mpiexec", "orterun", "horovodrun", "srun"}
)
MODULES = frozenset(
    {
        "torch.distributed.run", "torch.distributed.launch", "accelerate.commands.launch",
        "deepspeed.launcher.runner", "horovod.runner",
    }
)  # fmt: skip
_KEYWORDS = frozenset({"if", "then", "elif", "else", "while", "until", "do", "!", "{"})
_WRAPPERS = {
    "env": ("-u", "-C"), "exec": ("-a",), "command": (), "nohup": (), "time": (), "setsid": (),
    "nice": ("-n",), "ionice": ("-c", "-n"), "timeout": ("-s", "-k"), "stdbuf": ("-i", "-o", "-e"),
    "sudo": ("-u", "-g"), "numactl": ("-N", "-m", "-C"), "taskset": ("-c",), "strace": ("-e", "-o"),
}  # fmt: skip
"""Programs that run the rest of their line, with their options that take a value."""
_RUNNERS = {"uv": (), "poetry": (), "pipenv": (), "conda": ("-n", "-p"), "micromamba": ("-n", "-p")}
"""Programs that do so after `run`."""
_SHELL = re.compile(r"^(ba|da|z|k)?sh$")
_PYTHON = re.compile(r"^python[0-9.]*$")
_ASSIGNMENT = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*\+?=")
_NUMBER = re.compile(r"^[0-9]+(\.[0-9]+)?[smhd]?$")
_DEEPEST = 5


def find_launcher(command: str) -> str | None:
    """The launcher that a shell command starts, as people call it (`accelerate launch`), or None.

    Looks at every simple command: behind assignments, `&&`, pipes, wrappers such as `env` and
    `uv run`, and inside `bash -c '…'`. What a variable or a script holds cannot be seen.
    """
    return _find(command, _DEEPEST)


def _find(command: str, depth: int) -> str | None:
    for words in _simple_commands(command):
        found = _launcher_of(words, depth)
        if found is not None:
            return found
    return None


def _simple_commands(command: str) -> Iterator[list[str]]:
    """The words of each simple command; nothing where the quotes do not match."""
    text = command.replace("\\\n", " ").replace("\r", "")
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";&|()\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    comment = False
    try:
        for token in lexer:
            if token and set(token) <= set(";&|()\n"):
                if "\n" in token or not comment:
                    comment = False
                    yield words
                    words = []
            elif comment or token.startswith("#"):
                comment = True
            else:
                words.append(token)
    except ValueError:
        return
    yield words


def _launcher_of(words: list[str], depth: int) -> str | None:
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name = PurePosixPath(word).name
        if word in _KEYWORDS or _ASSIGNMENT.match(word):
            continue
        if name in _WRAPPERS:
            rest = _after_options(rest, _WRAPPERS[name], numbers=True)
            continue
        if name in _RUNNERS and "run" in rest:
            rest = _after_options(rest[rest.index("run") + 1 :], _RUNNERS[name])
            continue
        return _named(name, rest, depth)
    return None


def _named(name: str, rest: list[str], depth: int) -> str | None:
    """The launcher among a program and its arguments."""
    if name in LAUNCHERS:
        return name
    if name == "accelerate":
        arguments = _after_options(rest, ())
        return "accelerate launch" if arguments[:1] == ["launch"] else None
    if name == "eval":
        return _find(" ".join(rest), depth - 1) if depth else None
    if _SHELL.match(name):
        flags = [i for i, word in enumerate(rest) if re.match(r"^-[a-z]*c$", word)]
        script = rest[flags[0] + 1 : flags[0] + 2] if flags else []
        return _find(script[0], depth - 1) if script and depth else None
    return _python(rest) if _PYTHON.match(name) else None


def _python(arguments: list[str]) -> str | None:
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word.startswith("-m"):
            module = word[2:] or (rest[0] if rest else "")
            return f"python -m {module}" if module in MODULES else None
        if word in ("-X", "-W"):
            rest = rest[1:]
        elif not word.startswith("-"):
            name = PurePosixPath(word).name
            return name if name in LAUNCHERS else None
    return None


def _after_options(
    words: list[str], valued: tuple[str, ...], *, numbers: bool = False
) -> list[str]:
    rest = list(words)
    while rest and (rest[0].startswith("-") or (numbers and _NUMBER.match(rest[0]))):
        rest = rest[2:] if rest[0] in valued else rest[1:]
    return rest
