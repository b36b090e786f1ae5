"""Prove a packaged model on a real server before it is published."""
