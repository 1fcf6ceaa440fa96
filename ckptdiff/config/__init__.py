"""What config.json and Megatron's args state of a model: read, compared and translated."""
