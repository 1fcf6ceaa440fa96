"""Invisible widgets that run the workers, one job at a time, and write what comes of it down."""
