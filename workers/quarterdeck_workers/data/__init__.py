"""From files to batches: scan, tokenizer, token shards, order of samples, loading."""
