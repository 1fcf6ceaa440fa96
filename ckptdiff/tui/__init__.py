"""The terminal user interface: it shows what the engine yields and computes nothing."""
