"""Say results in words, JSON, Markdown and HTML."""
