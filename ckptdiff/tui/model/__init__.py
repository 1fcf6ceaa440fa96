"""The state that the screens show, as plain values without widgets or threads."""
