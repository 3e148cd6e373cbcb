"""Own decoder modules of the GPT and LLaMA families, and their Hugging Face form."""
