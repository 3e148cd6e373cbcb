"""Greedy generation by plain `transformers`, as a yardstick for engines.

    python -m quarterdeck_workers.evaluation.generate FOLDER --prompt TEXT --tokens 32

prints one JSON object: `text`, `tokens` (ids) and `margins` (difference of the two best logits at
each step: below 1e-4, batched and single kernels may choose differently).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Generation:
    text: str
    tokens: list[int]
    margins: list[float]


def generate_greedily(folder: Path, prompt: str, tokens: int) -> Generation:
    """Generate at most `tokens` tokens after `prompt` with the model in a Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            do_sample=False,
            return_dict_in_generate=True,
            output_logits=True,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id or 0,
        )
    best = [torch.topk(logits[0].float(), 2).values for logits in output.logits]
    new = output.sequences[0, ids.shape[1] :].tolist()
    return Generation(
        text=tokenizer.decode(new, skip_special_tokens=True),
        tokens=new,
        margins=[float(pair[0] - pair[1]) for pair in best],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Greedy generation by plain transformers.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--tokens", type=int, default=32)
    arguments = parser.parse_args()
    generation = generate_greedily(arguments.folder, arguments.prompt, arguments.tokens)
    print(json.dumps(asdict(generation)))


if __name__ == "__main__":
    main()
