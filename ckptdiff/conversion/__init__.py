"""The verb `convert`: plan, write and verify a checkpoint in another format or layout."""
