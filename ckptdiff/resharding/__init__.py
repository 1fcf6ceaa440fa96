"""Read the rules forward: what each rank, or each Hugging Face file, holds of canonical tensors."""
