"""The verb `logits`: compare what two checkpoints compute of one prompt."""
