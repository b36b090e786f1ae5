"""Layerwise compression for deployment."""

__version__ = "0.1.0"
