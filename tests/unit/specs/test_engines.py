"""What a service may say of its engine."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from quarterdeck.specs.kinds import ServiceSpec


def service(**fields: Any) -> ServiceSpec:
    return ServiceSpec.model_validate({"kind": "service", "name": "s", "model": "m@1", **fields})


def test_good_services_parse() -> None:
    assert service().engine == "builtin" and service().probe == "completion"
    vllm = service(
        engine="vllm", engine_args={"max_model_len": 8192, "enforce_eager": True},
        environment={"python": "/opt/vllm/bin/python"}, parallelism={"tensor": 2},
        env={"VLLM_CPU_KVCACHE_SPACE": "1"},
    )  # fmt: skip
    assert vllm.rank_count == 2
    assert service(engine="command", command="serve --port $PORT", ready_path="/up").command


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"engine": "command"}, "needs the command"),
        ({"command": "serve"}, "engine builtin starts by itself"),
        ({"engine": "vllm", "command": "serve"}, "engine vllm starts by itself"),
        ({"engine": "command", "command": "x", "engine_args": {"a": 1}}, "into the command"),
        ({"engine": "command", "command": "x", "environment": {"python": "/p"}}, "interpreter"),
        ({"ready_path": "/up"}, "ready_path: engine builtin has none"),
        ({"environment": {"python": "/p"}}, "environment.python: engine builtin has none"),
        ({"environment": {"image": "vllm/vllm-openai"}}, "do not start from images yet"),
        ({"engine": "vllm", "environment": {"python": "python3"}}, "environment.python"),
        ({"engine": "vllm", "engine_args": {"max-model-len": 1}}, "max_model_len"),
        ({"engine": "vllm", "engine_args": {"port": 80}}, "engine_args.port: the platform"),
        ({"engine": "vllm", "engine_args": {"tensor_parallel_size": 2}}, "parallelism: {tensor"),
        ({"engine": "vllm", "engine_args": {"data_parallel_size": 2}}, "write replicas"),
        ({"engine": "vllm", "engine_args": {"api_key": "x"}}, "keys are the gateway's"),
        ({"parallelism": {"tensor": 2}}, "one accelerator"),
        ({"engine": "tgi"}, "builtin"),
        ({"ready_path": "up"}, "ready_path"),
        ({"probe": "image"}, "probe"),
    ],
)
def test_what_does_not_belong_together_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        service(**fields)
    assert words in str(refusal.value)
