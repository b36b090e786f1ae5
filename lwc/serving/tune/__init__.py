"""Serving settings that are measured instead of guessed."""
