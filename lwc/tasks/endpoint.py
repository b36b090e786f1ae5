"""How a task is served: its Triton repository, the samples that prove it, and its wire format."""

from __future__ import annotations

from typing import Protocol


class Endpoint(Protocol):
    """What packaging, load tests and verification ask of a task."""
