"""Example bodies for the OpenAPI description: each is accepted on an empty installation."""

from __future__ import annotations

from pydantic import JsonValue

COMMAND: dict[str, JsonValue] = {
    "kind": "command",
    "name": "hello",
    "ranks": 2,
    "command": "echo rank $RANK of $WORLD_SIZE",
    "max_duration": "5m",
}
DATASET: dict[str, JsonValue] = {
    "kind": "dataset",
    "name": "stdlib",
    "uri": "file:///usr/lib/python3.11",
    "include": ["**/*.py"],
    "held_out": "2%",
}
TOKENIZER: dict[str, JsonValue] = {
    "kind": "tokenizer",
    "name": "bpe-8k",
    "dataset": "stdlib",
    "vocabulary": "8k",
}
PRETRAIN: dict[str, JsonValue] = {
    "kind": "pretrain",
    "name": "llama-small",
    "architecture": {
        "model_type": "llama",
        "vocab_size": 8192,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
    },
    "datasets": "stdlib-tokens",
    "parallelism": {"data": 2, "tensor": 2, "pipeline": 2},
    "resources": {"accelerator": "H100"},
    "training": {"steps": 240, "sequence_length": 128, "global_batch_size": 32},
}
SERVICE: dict[str, JsonValue] = {
    "kind": "service",
    "name": "writer",
    "model": "llama-small",
    "replicas": 1,
}
DRY_RUN: dict[str, JsonValue] = {"documents": [DATASET, TOKENIZER], "dry_run": True}
