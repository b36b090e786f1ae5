"""Task classification."""

from __future__ import annotations

from lwc.tasks.text_endpoint import TextEndpoint


class Classification:
    """A text's class."""

    endpoint = TextEndpoint()


TASK = Classification()
