"""Triton: its configuration, repositories, the embedded server, its backends and counters."""
