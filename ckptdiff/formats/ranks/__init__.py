"""Formats in which each rank of a training run saves its own part of every tensor."""
