"""What the screens have done in threads; it speaks to them by messages."""
