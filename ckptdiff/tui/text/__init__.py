"""Pure functions that put the state of the screens into words and lines of text."""
