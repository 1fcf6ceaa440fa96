"""What runs in threads: it calls the engine and posts messages to a runner."""
