"""Metrics and their intervals, a file for each task, in plain NumPy."""
