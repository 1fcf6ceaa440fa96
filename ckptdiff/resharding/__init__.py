"""Split canonical tensors: into the shards of Megatron's ranks, or into Hugging Face files."""
