"""A tiny random LLaMA with a byte-level tokenizer trained on the spot, as a model folder."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CONTEXT = 128
TEXTS = [
    "the quick brown fox jumps over the lazy dog",
    "grüße aus Köln, 你好, 🚀 and naïve café",
    "def main() -> None:\n    print('hello, world')\n",
] * 20


def make_tokenizer(*, chat_template: str | None = None) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    fast.chat_template = chat_template
    return fast


def make_model_folder(
    folder: Path,
    *,
    seed: int = 0,
    chat_template: str | None = None,
    layers: int = 2,
    hidden: int = 64,
    context: int = CONTEXT,
) -> Path:
    """Write the folder; the same seed gives the same weights. Heads are a quarter of `hidden`."""
    tokenizer = make_tokenizer(chat_template=chat_template)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def learn_by_heart(folder: Path, *texts: str) -> None:
    """Train the model in a folder until it goes on with these texts from their first words; where
    they part, with what most of them say."""
    torch.set_num_threads(1)  # of so small products several would wait for each other
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = LlamaForCausalLM.from_pretrained(folder)
    model.train()
    learnt = [
        torch.tensor([[*tokenizer(text)["input_ids"], tokenizer.eos_token_id]]) for text in texts
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(1000):
        loss = sum(model(input_ids=ids, labels=ids).loss for ids in learnt) / len(learnt)
        if loss < 0.02:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    else:
        raise AssertionError(f"it did not learn: loss {loss.item():.3f}")
    model.save_pretrained(folder)


def make_gpt_folder(folder: Path) -> Path:
    """The same with learned positions and a tied head."""
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=CONTEXT,
        n_embd=48,
        n_layer=2,
        n_head=3,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
