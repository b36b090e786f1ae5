"""Task regression."""

from __future__ import annotations

from lwc.tasks.text_endpoint import TextEndpoint


class Regression:
    """A number."""

    endpoint = TextEndpoint(classes=False)


TASK = Regression()
