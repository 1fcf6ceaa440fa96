"""Compute logits from the files as they are: Hugging Face's way, Meta's way and Megatron's way.

Nothing here knows the rules by which checkpoints are converted. A Megatron side is read as Megatron
reads it, rank by rank; were the rules shared, an error in them would cancel out. Modules that
import torch are imported by jobs alone; `model`, `holdings` and the readers of configs do not.
"""
