"""The verb `diff`: compare two assembled checkpoints, tensor by tensor."""
