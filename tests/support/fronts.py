"""A front as text models have it, without a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lwc.tasks.endpoint import Front


def text_front(classes: int, parameters: Mapping[str, str]) -> Front:
    """Text in; label and so many scores out."""
    return Front(
        graph="m_tokens",
        script=Path("never-read.py"),
        inputs=[{"name": "text", "data_type": "TYPE_STRING", "dims": [1]}],
        outputs=[
            {"name": "label", "data_type": "TYPE_STRING", "dims": [1]},
            {"name": "scores", "data_type": "TYPE_FP32", "dims": [classes]},
        ],
        parameters=parameters,
        files={},
        max_length=8,
        warm_up_length=8,
        row=lambda length: {},
        described={},
        example={"text": "it works"},
    )
