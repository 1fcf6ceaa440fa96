"""Read Megatron's args for the forward pass."""
