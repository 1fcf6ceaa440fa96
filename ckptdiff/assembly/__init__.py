"""Assemble any checkpoint into canonical tensors: Hugging Face names, unsharded, no data read."""
