"""Layerwise compression of transformers for deployment.

    >>> import lwc
    >>> importance = lwc.score(model, tokenizer, texts, labels)  # doctest: +SKIP
    >>> smaller = lwc.remove_blocks(model, importance.lowest(4))  # doctest: +SKIP

The names below are imported when they are first used, so that ``import lwc`` itself is quick and loads no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Exported",
    "Importance",
    "LwcError",
    "RecoveryResult",
    "Run",
    "Server",
    "__version__",
    "export_onnx",
    "package",
    "recover",
    "remove_blocks",
    "run",
    "score",
    "serve",
]

if TYPE_CHECKING:
    from lwc.api.cut import remove_blocks
    from lwc.api.export import Exported, export_onnx
    from lwc.api.models import RecoveryResult
    from lwc.api.package import package
    from lwc.api.recover import recover
    from lwc.api.run import Run, run
    from lwc.api.score import Importance, score
    from lwc.api.serve import Answer, Server, serve
    from lwc.core.errors import LwcError
else:
    _HOMES = {
        "Answer": "lwc.api.serve",
        "Exported": "lwc.api.export",
        "Importance": "lwc.api.score",
        "LwcError": "lwc.core.errors",
        "RecoveryResult": "lwc.api.models",
        "Run": "lwc.api.run",
        "Server": "lwc.api.serve",
        "export_onnx": "lwc.api.export",
        "package": "lwc.api.package",
        "recover": "lwc.api.recover",
        "remove_blocks": "lwc.api.cut",
        "run": "lwc.api.run",
        "score": "lwc.api.score",
        "serve": "lwc.api.serve",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module 'lwc' has no attribute {name!r}")
        found = getattr(import_module(_HOMES[name]), name)
        globals()[name] = found
        return found

    def __dir__():
        return sorted({*globals(), *__all__})
