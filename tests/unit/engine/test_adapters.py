"""Command lines and log signs of engines, and their numbers in Prometheus text."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck_workers.engine.adapters import (
    ADAPTERS,
    EngineOrder,
    command_line_of_command,
    command_line_of_vllm,
    sign_of_vllm,
)
from quarterdeck_workers.engine.metric_names import KNOWN, VLLM, EngineLoad, read_load
from quarterdeck_workers.engine.start_progress import Sign


def order(**spec: Any) -> EngineOrder:
    return EngineOrder("chat", "/models/it's here", "10.0.0.7", 4711, spec, "/usr/bin/python3")


def test_vllm_gets_its_options_in_kebab_case() -> None:
    spec = {
        "engine_args": {
            "max_model_len": 8192, "enable_prefix_caching": True, "enforce_eager": False,
            "dtype": "bfloat16", "rope_scaling": "-1",
        },
        "parallelism": {"tensor": 2, "pipeline": 1},
        "environment": {"python": "/opt/vllm/bin/python"},
    }  # fmt: skip
    line = command_line_of_vllm(order(**spec))
    assert line.words == (
        "/opt/vllm/bin/python", "-m", "vllm.entrypoints.openai.api_server",
        "--model", "/models/it's here", "--served-model-name", "chat",
        "--host", "10.0.0.7", "--port", "4711", "--disable-uvicorn-access-log",
        "--tensor-parallel-size", "2",
        "--max-model-len=8192", "--enable-prefix-caching", "--no-enforce-eager",
        "--dtype=bfloat16", "--rope-scaling=-1",
    )  # fmt: skip
    assert line.module == "vllm" and "pip install vllm" in line.remedy
    assert line.variables["VLLM_NO_USAGE_STATS"] == "1"
    assert command_line_of_vllm(order()).words[0] == "/usr/bin/python3"


def test_vllm_plans_with_its_share_unless_told_otherwise() -> None:
    shared = {"resources": {"accelerator_share": 0.4}}
    assert "--gpu-memory-utilization=0.36" in command_line_of_vllm(order(**shared)).words
    told = order(**shared, engine_args={"gpu_memory_utilization": 0.3})
    words = [word for word in command_line_of_vllm(told).words if "utilization" in word]
    assert words == ["--gpu-memory-utilization=0.3"]
    for whole in ({}, {"resources": {"accelerator_share": None}}):
        assert not any("utilization" in word for word in command_line_of_vllm(order(**whole)).words)


def test_a_command_gets_its_places_filled_quoted_and_as_variables() -> None:
    text = "serve {model_path} --port={port} -n ${port} {other} --name {model_name} $PORT"
    line = command_line_of_command(order(command=text))
    assert line.words[:2] == ("/bin/bash", "-c")
    assert line.words[2] == (
        "serve '/models/it'\"'\"'s here' --port=4711 -n ${port} {other} --name chat $PORT"
    )
    assert line.variables == {
        "HOST": "10.0.0.7", "PORT": "4711", "MODEL_PATH": "/models/it's here",
        "MODEL_NAME": "chat",
    }  # fmt: skip


def test_every_engine_of_the_spec_has_an_adapter() -> None:
    from typing import get_args

    from quarterdeck.specs.engines import EngineName

    assert set(ADAPTERS) == set(get_args(EngineName))
    assert ADAPTERS["builtin"].command_line is None


@pytest.mark.parametrize(
    ("line", "sign"),
    [
        ("Loading safetensors checkpoint shards:  33% Completed | 1/3 [00:01<00:02]",
         Sign("weights", 0.33)),
        ("(EngineCore pid=7) INFO [gpu_model_runner.py:2602] Starting to load model /m...",
         Sign("weights")),
        ("INFO [backends.py:548] Dynamo bytecode transform time: 3.2 s", Sign("compile")),
        ("Capturing CUDA graphs (mixed prefill-decode):  45%|####", Sign("warmup", 0.45)),
        ("INFO: 127.0.0.1 - GET /health 200", None),
        ("WARNING [vllm.py:1703] Enforce eager set, disabling torch.compile, CUDAGraphs", None),
        ("INFO [default_loader.py:501] Loading weights took 0.05 seconds", Sign("warmup")),
    ],
)  # fmt: skip
def test_vllm_tells_its_phases(line: str, sign: Sign | None) -> None:
    assert sign_of_vllm(line) == sign


VLLM_TEXT = """\
# HELP vllm:num_requests_running Number of requests
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="a}b"} 2.0
vllm:num_requests_running{engine="1",model_name="a"} 1.0
vllm:num_requests_waiting{engine="0"} 4
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
vllm:generation_tokens_total{engine="0"} 100 1700000000
vllm:prompt_tokens_total NaN
vllm:generation_tokens_created{engine="0"} 9e9
"""


def test_numbers_are_found_under_each_engine_s_names() -> None:
    load = read_load(VLLM_TEXT, KNOWN)
    assert load == EngineLoad(3.0, 4.0, 0.5, 100.0, None)
    assert load.in_flight == 7 and load.progress == 100
    ours = "quarterdeck_engine_running_sequences 2\nquarterdeck_engine_prompt_tokens_total 5.0\n"
    assert read_load(ours, KNOWN) == EngineLoad(running=2.0, prompt_tokens=5.0)
    assert read_load(ours, (VLLM,)) == EngineLoad()


@pytest.mark.parametrize("text", ["", "<html>", "vllm:num_requests_running", "a{b 1", "{} {} {}"])
def test_garbage_tells_nothing(text: str) -> None:
    load = read_load(text, KNOWN)
    assert load == EngineLoad() and load.in_flight is None and load.progress is None
