"""Benchmark scores of both sides, from lm-evaluation-harness, and what their difference means."""
