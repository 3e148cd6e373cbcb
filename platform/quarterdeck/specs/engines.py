"""What a service says of its engine: which one, how it starts, and how it is asked."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from quarterdeck.specs.base import Spec
from quarterdeck.specs.units import Seconds

EngineName = Literal["builtin", "vllm", "command"]
ProbeKind = Literal["completion", "chat", "embedding", "rerank", "search"]

VLLM_OWNED = {
    "model": "the spec's model is served",
    "served_model_name": "clients ask for the service's name",
    "host": "the platform chooses it",
    "port": "the platform chooses it",
    "uds": "the gateway reaches engines by address",
    "tensor_parallel_size": "write parallelism: {tensor: …}",
    "pipeline_parallel_size": "write parallelism: {pipeline: …}",
    "data_parallel_size": "write replicas, so that each is watched and replaced by itself",
    "api_key": "keys are the gateway's",
    "root_path": "the gateway asks for /v1",
    "config": "write its settings as engine_args",
    "headless": "a replica answers HTTP",
    "ssl_keyfile": "the gateway speaks HTTP to engines",
    "ssl_certfile": "the gateway speaks HTTP to engines",
    "disable_uvicorn_access_log": "the gateway has an access log",
}
"""Options of vLLM that the platform sets or that would take the replica from it, and what to do."""
_OPTION = re.compile(r"^[a-z][a-z0-9_]*$")


class EngineEnvironment(Spec):
    """Where an engine's program comes from."""

    python: Annotated[str, Field(min_length=1, pattern=r"^/")] | None = None
    """An interpreter on the machines that has the engine installed: `/opt/vllm/bin/python`."""
    image: str | None = None

    @field_validator("image")
    @classmethod
    def _not_yet(cls, image: str | None) -> str | None:
        if image is not None:
            raise ValueError(
                "engines do not start from images yet: write python, the path of an interpreter "
                "that has the engine"
            )
        return image


class EngineFields(Spec):
    """The engine of a service and its settings."""

    engine: EngineName = "builtin"
    engine_args: dict[str, int | float | str | bool] = {}
    """`vllm`: its options with underscores, `{max_model_len: 8192}`."""
    command: str | None = Field(default=None, min_length=1, max_length=100_000)
    """Of engine `command`: a shell command that serves OpenAI's API on `$HOST`, `$PORT` (also
    `{host}`, `{port}`) the model of the folder `$MODEL_PATH` under the name `$MODEL_NAME`."""
    ready_path: Annotated[str, Field(pattern=r"^/[!-~]*$", max_length=200)] | None = None
    """What answers 200 once the engine is up; None: the engine's own, `/health`."""
    probe: ProbeKind = "completion"
    """The kind of request by which a replica shows that it works."""
    environment: EngineEnvironment = EngineEnvironment()
    env: dict[str, str] = {}
    start_timeout: Annotated[Seconds, Field(gt=0, le=86_400)] = 1800
    """How long until an engine must be ready."""

    @model_validator(mode="after")
    def _belong_together(self) -> Any:
        if self.engine == "command" and self.command is None:
            raise ValueError("command: engine command needs the command that starts it")
        if self.engine != "command" and self.command is not None:
            raise ValueError(
                f"command: engine {self.engine} starts by itself: write engine: command, or leave "
                "command out"
            )
        if self.engine == "command" and self.engine_args:
            raise ValueError("engine_args: write them into the command")
        if self.engine == "builtin":
            for field, value in (
                ("ready_path", self.ready_path), ("environment.python", self.environment.python),
            ):  # fmt: skip
                if value is not None:
                    raise ValueError(f"{field}: engine builtin has none: leave it out")
        if self.engine == "command" and self.environment.python is not None:
            raise ValueError("environment.python: write the interpreter into the command")
        if self.engine == "vllm":
            self._check_options()
        return self

    def _check_options(self) -> None:
        for name in self.engine_args:
            if not _OPTION.match(name):
                raise ValueError(f"engine_args.{name}: write vLLM's option as max_model_len")
            if name in VLLM_OWNED:
                raise ValueError(f"engine_args.{name}: {VLLM_OWNED[name]}; leave it out")
