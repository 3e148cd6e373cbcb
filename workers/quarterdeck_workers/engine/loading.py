"""Opening a model folder in Hugging Face layout, without network and without foreign code."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils.logging import disable_progress_bar

FALLBACK_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
"""For models without a chat template: one `role: content` line per message, then `assistant:`.
A model that goes on to write another user's line is stopped there (see FALLBACK_STOP)."""
FALLBACK_STOP = "\nuser:"

_LAYERS_WITH_PLAIN_CACHE = {"full_attention", "sliding_attention"}


@dataclass
class LoadedModel:
    """A model ready to generate, with what the HTTP surface needs of its tokenizer.

    The two tokenizers are copies: encoding changes a fast tokenizer's state for a moment, and
    another thread that decodes at that moment would fail.
    """

    model: Any
    encoder: Any
    decoder: Any
    eos: frozenset[int]
    context_length: int
    vocabulary: int

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of a prompt, with the special tokens that the tokenizer adds to texts."""
        return list(self.encoder(text, add_special_tokens=special)["input_ids"])

    def decode(self, tokens: Sequence[int], *, special: bool = False) -> str:
        """Text of tokens; special ones are left out unless `special`."""
        return str(
            self.decoder.decode(
                list(tokens), skip_special_tokens=not special, clean_up_tokenization_spaces=False
            )
        )

    def token_text(self, token: int) -> str:
        """One token as text, for log-probability tables (special ones by name)."""
        return str(self.decoder.decode([token], clean_up_tokenization_spaces=False))

    @property
    def has_chat_template(self) -> bool:
        return bool(self.encoder.chat_template)

    def encode_chat(
        self, messages: list[dict[str, str]], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """Token ids of a conversation up to where the assistant speaks. Raises ValueError where
        the model's own template refuses the conversation."""
        import jinja2

        template = None if self.has_chat_template else FALLBACK_TEMPLATE
        try:
            text = self.encoder.apply_chat_template(
                messages, chat_template=template, tokenize=False,
                add_generation_prompt=add_generation_prompt,
            )  # fmt: skip
        except jinja2.TemplateError as error:
            raise ValueError(f"the model's chat template refuses the messages: {error}") from error
        # Templates write their special tokens themselves; the fallback has none to write.
        return list(self.encoder(text, add_special_tokens=not self.has_chat_template)["input_ids"])


def load(folder: Path, *, device: str | None = None, dtype: str = "auto") -> LoadedModel:
    """Open a folder with config.json, safetensors and tokenizer.

    `device`: `cpu`, `cuda`, …; None takes the first accelerator, else the CPU. `dtype`: a torch
    name; `auto` is float32 on the CPU, else what the configuration says. Raises ValueError for
    an architecture whose caches this engine cannot batch, OSError for missing files.
    """
    disable_progress_bar()  # type: ignore[no-untyped-call]  # it fills logs with carriage returns
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = "float32" if dtype == "auto" and chosen == "cpu" else dtype
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    foreign = set(getattr(config, "layer_types", None) or ()) - _LAYERS_WITH_PLAIN_CACHE
    if foreign:
        raise ValueError(
            f"model_type {config.model_type!r} has layers of type {sorted(foreign)}; the builtin "
            f"engine batches {sorted(_LAYERS_WITH_PLAIN_CACHE)} only: choose another engine"
        )
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=precision, local_files_only=True
    )
    model.to(chosen).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # Lengths are checked against the engine's own limit, with an answer that names both.
    tokenizer.model_max_length = int(1e30)
    return LoadedModel(
        model=model,
        encoder=tokenizer,
        decoder=copy.deepcopy(tokenizer),
        eos=_end_tokens(folder, config, tokenizer),
        context_length=_context_length(config),
        vocabulary=int(model.get_input_embeddings().num_embeddings),
    )


def _end_tokens(folder: Path, config: Any, tokenizer: Any) -> frozenset[int]:
    found: list[Any] = [getattr(config, "eos_token_id", None)]
    if (folder / "generation_config.json").is_file():
        generation = GenerationConfig.from_pretrained(folder, local_files_only=True)
        if generation.eos_token_id is not None:
            found = [generation.eos_token_id]
    if found == [None]:
        found = [tokenizer.eos_token_id]
    flat = [token for item in found for token in (item if isinstance(item, list) else [item])]
    return frozenset(int(token) for token in flat if token is not None)


def _context_length(config: Any) -> int:
    for name in ("max_position_embeddings", "n_positions", "max_seq_len"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    raise ValueError(
        "config.json names no context length (max_position_embeddings): add it to the export"
    )
