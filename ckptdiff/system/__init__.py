"""What the operating system gives: processes, and folders of the user. It may not."""
