"""How much of an accelerator's memory a replica may use that has but a share of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quarterdeck.planner.estimate import USABLE_MEMORY
from quarterdeck.planner.inference import cache_tokens_of_share


def share_of(spec: Mapping[str, Any]) -> float:
    """The part of its accelerator that a replica of this spec has, 0 to 1."""
    share = (spec.get("resources") or {}).get("accelerator_share")
    return 1.0 if share is None else float(share)


def memory_utilization(share: float) -> float:
    """The part of the whole memory that an engine may plan with: the rest of the share is what
    its framework takes beside weights and cache."""
    return round(share * USABLE_MEMORY, 4)


def cache_bytes_per_token(config: Any, width: int) -> int:
    """Bytes of keys and values of one token, by a Hugging Face configuration and the bytes of
    one number."""
    heads = int(config.num_attention_heads)
    kept = int(getattr(config, "num_key_value_heads", None) or heads)
    size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    return 2 * int(config.num_hidden_layers) * kept * size * width


def cache_tokens(share: float, memory: int, used: int, per_token: int, longest: int) -> int:
    """Tokens whose cache fits into the share of `memory` bytes of which the weights use `used`.

    Raises ValueError where not even one sequence of `longest` tokens does.
    """
    tokens = cache_tokens_of_share(share, memory, used, per_token)
    if tokens < longest:
        raise ValueError(
            f"resources.accelerator_share: {share:g} of {memory / 1e9:.1f} GB holds "
            f"{used / 1e9:.1f} GB of weights and the cache of {tokens} tokens, fewer than one "
            f"sequence of {longest}: take a larger share, or lower engine_args.max_model_len"
        )
    return tokens
