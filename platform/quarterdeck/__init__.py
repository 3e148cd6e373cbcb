"""Quarterdeck: pretrain, fine-tune and serve language models on shared accelerators."""

__version__ = "0.1.0"
