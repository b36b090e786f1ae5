"""The pieces the embedded Triton server is started from: its backends and its flags."""

from __future__ import annotations

import shutil
from pathlib import Path

from lwc.serving.triton.environment import ServerEnvironment

# What a client that only asks for answers never needs. Statistics stay open: the metrics port tells the same.
RESTRICTED = "shared-memory,model-config,model-repository,trace,logging"
RESTRICTED_HEADER = "x-lwc-key"
# What `assemble_backends` gives the server, and what is part of every server.
BACKENDS = ("python", "onnxruntime", "ensemble")


def safe_flags(key: str, control: bool = False) -> list[str]:
    """Flags for every server, embedded or in the official image.

    ``key`` opens the restricted interfaces to a client that sends it as the header ``x-lwc-key``
    (``triton-grpc-protocol-x-lwc-key`` over gRPC); others get 403 and UNAVAILABLE. With ``control`` its holder may load
    and unload models; the server then is ready while one loads or after one failed to, which strict readiness denies.
    """
    mode = ["--model-control-mode=explicit", "--load-model=*"] if control else ["--model-control-mode=none"]
    return [
        *mode,
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        f"--strict-readiness={'false' if control else 'true'}",
        f"--http-restricted-api={RESTRICTED}:{RESTRICTED_HEADER}={key}",
        f"--grpc-restricted-protocol={RESTRICTED}:{RESTRICTED_HEADER}={key}",
    ]


def assemble_backends(folder: Path, server: ServerEnvironment) -> Path:
    """Fill ``folder`` with the Python backend of the server's Python, and the ONNX Runtime one that stands on it."""
    python = folder / "python"
    python.mkdir(parents=True)
    for name in ("libtriton_python.so", "triton_python_backend_utils.py"):
        shutil.copy2(server.triton / "backends" / "python" / name, python / name)
    stub = python / "triton_python_backend_stub"
    shutil.copy2(server.triton / "python_backend_stubs" / server.version / stub.name, stub)
    stub.chmod(0o755)
    (folder / "onnxruntime").mkdir()
    shutil.copy2(Path(__file__).parent / "backends" / "onnxruntime_model.py", folder / "onnxruntime" / "model.py")
    return folder
