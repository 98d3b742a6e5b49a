"""Measurements, each printing a ratio of two things taken in turn in one run: `python -m benchmarks [NAME ...]`."""
