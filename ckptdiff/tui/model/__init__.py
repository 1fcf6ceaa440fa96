"""What the screens show, as plain values: no widget, no thread."""
