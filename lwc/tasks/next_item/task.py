"""Task next_item."""

from __future__ import annotations

from lwc.tasks.next_item.endpoint import ItemEndpoint


class NextItem:
    """The next items."""

    endpoint = ItemEndpoint()


TASK = NextItem()
