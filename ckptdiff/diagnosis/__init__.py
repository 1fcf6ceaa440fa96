"""The verb `diagnose`: say which known fault explains what differs."""
