"""Bring any checkpoint to canonical tensors: Hugging Face names, unsharded, still unread."""
