"""Compute logits from the stored tensors, as Hugging Face, Meta or Megatron computes them.

Nothing here uses the rules by which checkpoints are converted (`arch`). A Megatron side is read as
Megatron reads it, rank by rank: if both used the same rules, an error in them would cancel out.
Only jobs import the modules that import torch; `model`, `holdings`, `plan` and the readers of
configs do not.
"""
