"""The pages for users and developers, as Markdown: part of the program, shown by `help`."""
