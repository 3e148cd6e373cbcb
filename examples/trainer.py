"""A plain Hugging Face Trainer: a tiny GPT-2 learns this very file, byte by byte.

    quarterdeck submit --ranks 2 -- python trainer.py

Needs transformers and accelerate (`--setup "pip install accelerate"` where they are missing).
"""

from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

LENGTH = 64


class Windows(Dataset):
    def __init__(self, content: bytes) -> None:
        self.tokens = torch.tensor(list(content))

    def __len__(self) -> int:
        return len(self.tokens) - LENGTH

    def __getitem__(self, place: int) -> dict[str, torch.Tensor]:
        window = self.tokens[place : place + LENGTH]
        return {"input_ids": window, "labels": window}


def main() -> None:
    config = GPT2Config(
        vocab_size=256, n_positions=LENGTH, n_embd=64, n_layer=2, n_head=2,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    arguments = TrainingArguments(
        output_dir="out", max_steps=20, logging_steps=5, per_device_train_batch_size=8,
        learning_rate=3e-3, save_strategy="no", report_to=[], disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    trainer = Trainer(
        model=GPT2LMHeadModel(config), args=arguments,
        train_dataset=Windows(Path(__file__).read_bytes()),
    )  # fmt: skip
    result = trainer.train()
    print(f"rank {arguments.process_index} of {arguments.world_size}: {result.training_loss:.3f}")


if __name__ == "__main__":
    main()
