"""Invisible widgets that run workers, one job at a time, and store their results."""
