"""Tests of the scores of tasks."""
