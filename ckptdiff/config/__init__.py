"""What config.json and Megatron's args say of a model, and what each calls it."""
