"""What is shown, in words: pure functions of plain values."""
