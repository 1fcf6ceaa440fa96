"""Compare a Hugging Face checkpoint with a sharded Megatron checkpoint, tensor by tensor."""

__version__ = "0.1.0"
