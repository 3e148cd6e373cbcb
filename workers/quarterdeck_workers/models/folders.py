"""Model folders as Hugging Face, vLLM and others read them: write one, read one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from quarterdeck.specs.architecture import Architecture
from quarterdeck_workers.models.decoder import Decoder
from quarterdeck_workers.models.hugging_face import (
    architecture_from_config,
    config_json,
    from_hugging_face,
)
from quarterdeck_workers.models.initialisation import build_model

INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json",
    "merges.txt", "tokenizer.model", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip


def export(
    folder: Path,
    state: Iterable[tuple[str, Tensor]],
    architecture: Architecture,
    *,
    vocab_size: int,
    tokenizer_folder: Path | None = None,
    dtype: torch.dtype = torch.float32,
    max_shard_bytes: int = 5 * 10**9,
) -> list[Path]:
    """Write a model folder; answers the files written, relative to it.

    `state` gives (Hugging Face name, whole tensor) pairs, consumed one by one, so at most
    `max_shard_bytes` lie in memory. A shared head is left out. Raises ValueError for an
    architecture that no Hugging Face class computes, FileNotFoundError for a tokenizer folder
    without `tokenizer.json`, OSError when the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    eos = end_of_text_id(tokenizer_folder) if tokenizer_folder else None
    config = config_json(architecture, vocab_size, eos_token_id=eos, dtype=dtype)
    written = _write_shards(folder, state, architecture, dtype, max_shard_bytes)
    ids = {"bos_token_id": eos, "eos_token_id": eos, "pad_token_id": eos} if eos is not None else {}
    for name, content in (("config.json", config), ("generation_config.json", ids)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        written.append(Path(name))
    if tokenizer_folder is not None:
        for name in TOKENIZER_FILES:
            if (tokenizer_folder / name).is_file():
                shutil.copyfile(tokenizer_folder / name, folder / name)
                written.append(Path(name))
    return written


def _write_shards(
    folder: Path,
    state: Iterable[tuple[str, Tensor]],
    architecture: Architecture,
    dtype: torch.dtype,
    limit: int,
) -> list[Path]:
    parts: list[Path] = []
    names: list[list[str]] = []
    pending: dict[str, Tensor] = {}
    total = held = 0

    def flush() -> None:
        nonlocal pending, held
        part = folder / f"part-{len(parts):05d}.safetensors"
        save_file(pending, part, metadata={"format": "pt"})
        parts.append(part)
        names.append(list(pending))
        pending, held = {}, 0

    for name, tensor in state:
        if name == "lm_head.weight" and architecture.tie_word_embeddings:
            continue
        # A copy of its own: safetensors refuses tensors that share memory or are transposed.
        value = tensor.detach().to("cpu", dtype, copy=True).contiguous()
        size = value.numel() * value.element_size()
        if pending and held + size > limit:
            flush()
        pending[name] = value
        held += size
        total += size
    flush()
    if len(parts) == 1:
        parts[0].replace(folder / "model.safetensors")
        return [Path("model.safetensors")]
    final = [f"model-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    for part, target in zip(parts, final, strict=True):
        part.replace(folder / target)
    where = {name: file for file, held_names in zip(final, names, strict=True)
             for name in held_names}  # fmt: skip
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [*map(Path, final), Path(INDEX)]


def end_of_text_id(tokenizer_folder: Path) -> int | None:
    """The id of the tokenizer's end-of-text token, None where it has none.

    Raises FileNotFoundError when the folder holds no `tokenizer.json`.
    """
    path = tokenizer_folder / "tokenizer_config.json"
    tokens = json.loads((tokenizer_folder / "tokenizer.json").read_text(encoding="utf-8"))
    eos = json.loads(path.read_text(encoding="utf-8")).get("eos_token") if path.is_file() else None
    content = eos.get("content") if isinstance(eos, dict) else eos
    for token in tokens.get("added_tokens", []):
        if token["content"] == content:
            return int(token["id"])
    return None


def read_weights(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """Every (Hugging Face name, tensor) of a model folder, one in memory at a time.

    Raises FileNotFoundError when the folder holds no safetensors.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"{folder} holds no *.safetensors: give a Hugging Face folder")
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (not a mapping)
                yield name, tensors.get_tensor(name)


def read_architecture(folder: Path) -> Architecture:
    """The architecture of a model folder; its `vocab_size` is set."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return architecture_from_config(config)


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> tuple[Decoder, Architecture]:
    """Our module with the weights of a model folder.

    Raises ValueError when config or weights do not fit, FileNotFoundError for missing files.
    """
    architecture = read_architecture(folder)
    model = build_model(architecture, dtype=dtype)
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters()}
    ours = from_hugging_face(dict(read_weights(folder)), shapes, architecture)
    model.load_state_dict(ours)
    return model.eval(), architecture
