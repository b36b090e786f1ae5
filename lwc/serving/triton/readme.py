"""The README of a repository: what its model takes and answers, with requests to copy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from lwc.serving.triton.config import EXAMPLE, parse
from lwc.tasks.endpoint import Front

README = "README.md"
_ADDRESS = "127.0.0.1:8000"


def readme(config: pb.ModelConfig, front: Front) -> str:
    """Markdown about the model with this configuration, which clients call, and the one behind it."""
    name = config.name
    about = "\n\n".join(front.about)
    return f"""\
# {name}

A model repository for Triton Inference Server, written by lwc. Clients call `{name}`, which calls `{front.graph}`.

## Requests

One question, with Triton's `generate` endpoint:

```bash
{curl(_ADDRESS, name, front.example)}
```

{about}

The same question with the `infer` endpoint, which also takes a batch of up to {config.max_batch_size}:

```bash
{_post(f"{_ADDRESS}/v2/models/{name}/infer", _infer(front.example))}
```

| | name | type | shape |
|---|---|---|---|
{_rows("input", config.input)}
{_rows("output", config.output)}

## Commands

Run these in the folder that contains this file.

```bash
# Look for what Triton would refuse.
lwc repo check .
# Serve the model on {_ADDRESS}.
lwc serve .
# Load-test the served model with a file that has one question a line.
lwc loadtest questions.txt --model {name}
# Replace the live version in DIR, the repository that a server reads.
lwc deploy . --to DIR --url {_ADDRESS}
```
"""


def curl(address: str, model: str, example: Mapping[str, Any]) -> str:
    """A command that asks ``model`` at ``address`` (``host:port``) about ``example``."""
    return _post(f"{address}/v2/models/{model}/generate", example)


def curl_commands(repository: Path, address: str) -> list[str]:
    """A command for each model of a repository that has an example request and is not called by another."""
    configs = [parse(path.read_text(encoding="utf-8")) for path in sorted(repository.glob("*/config.pbtxt"))]
    steps = {step.model_name for config in configs for step in config.ensemble_scheduling.step}
    return [
        curl(address, config.name, json.loads(config.parameters[EXAMPLE].string_value))
        for config in configs
        if EXAMPLE in config.parameters and config.name not in steps
    ]


def _post(url: str, body: Mapping[str, Any]) -> str:
    return f"curl -s {url} -d {shlex.quote(json.dumps(body, ensure_ascii=False))}"


def _infer(example: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: value if isinstance(value, list) else [value] for name, value in example.items()}
    return {
        "inputs": [
            {"name": name, "shape": [1, len(data)], "datatype": "BYTES", "data": data} for name, data in values.items()
        ]
    }


def _rows(kind: str, tensors: Any) -> str:
    """Lines of the table; the first dimension is that of the batch."""
    return "\n".join(
        f"| {kind}{', optional' if getattr(one, 'optional', False) else ''} | `{one.name}` |"
        f" {'BYTES' if one.data_type == pb.TYPE_STRING else pb.DataType.Name(one.data_type).removeprefix('TYPE_')} |"
        f" {[-1, *one.dims]} |"
        for one in tensors
    )
