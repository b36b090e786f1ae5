"""Load every model of a repository into the embedded server, one after another: what it says of each."""

from __future__ import annotations

import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import httpx2

from lwc.core import http
from lwc.serving.checks.layout import NAME
from lwc.serving.checks.model import Model
from lwc.serving.rollout.control import words
from lwc.serving.triton.embedded import BACKENDS, RESTRICTED_HEADER
from lwc.serving.triton.server import TritonServer

LOAD_SECONDS = 120.0


@dataclass(frozen=True)
class Started:
    """What became of a model: loaded, refused in Triton's own words, or not tried and why."""

    model: str
    state: Literal["READY", "FAILED", "NOT TRIED"]
    reason: str = ""


def start_models(folder: Path, models: Mapping[str, Model], seconds: float = LOAD_SECONDS) -> list[Started]:
    """Load each model, those that others call first. Python models run their own code.

    A model that ends the server, or that is not ready within ``seconds``, costs the others nothing.

    Raises:
        MissingDependency: the embedded server is not installed.
        ServingError: the server does not start at all.
    """
    found = [Started(name, "NOT TRIED", why) for name in models if (why := _untried(models[name], models))]
    waiting = [name for name in _callees_first(models) if name not in {one.model for one in found}]
    while waiting:
        for one in _load(folder, models, tuple(waiting), seconds):
            found.append(one)
            waiting.remove(one.model)
    return sorted(found, key=lambda one: one.model)


def _load(folder: Path, models: Mapping[str, Model], names: Sequence[str], seconds: float) -> Iterator[Started]:
    """Load ``names`` in turn until one of them costs the server its life."""
    key = uuid.uuid4().hex
    with tempfile.TemporaryDirectory(prefix="lwc-check-") as place:
        server = TritonServer(Path(place), control=True, key=key)
        with server:  # starts empty, so that no model keeps it from starting
            for name in models:
                (Path(place) / name).symlink_to((folder / name).resolve(), target_is_directory=True)
            for name in names:
                answer = _answer(server, key, name, seconds)
                if isinstance(answer, str):
                    yield Started(name, "FAILED", answer)
                    return
                if answer.status_code == 200:
                    yield Started(name, "READY")
                else:
                    log = server.log_path.read_text(encoding="utf-8", errors="replace")
                    yield Started(name, "FAILED", _reason(name, words(answer), log).replace(place, str(folder)))


def _answer(server: TritonServer, key: str, name: str, seconds: float) -> httpx2.Response | str:
    """The server's answer to an order to load a model, or why there is none; the server is stopped then."""
    url = f"http://{server.http_url}/v2/repository/models/{quote(name)}/load"
    reason = "the server ended while it loaded the model"
    with ThreadPoolExecutor(1) as pool:
        order = pool.submit(http.request, "POST", url, seconds, b"{}", {RESTRICTED_HEADER: key})
        # Processes of a dead server's models keep its connections open.
        while server.running and not order.done():
            wait([order], timeout=0.2)
        if server.running:
            try:
                return order.result()
            except http.NoAnswer as error:
                if str(error).startswith("no answer"):
                    reason = f"not ready: {error}"
        server.stop(polite=False)
    return reason


def _reason(name: str, answer: str, log: str) -> str:
    """Triton's reason without what it puts before it; a configuration it cannot read is explained in its log alone."""
    polled = re.findall(rf"model directory '{re.escape(name)}': (.+)", log)
    if "failed to poll" in answer and polled:
        answer = polled[-1]
    answer = answer.removeprefix(f"load failed for model '{name}': ")
    return answer.rpartition("UNAVAILABLE state: ")[2].strip('"; \n')


def _untried(model: Model, models: Mapping[str, Model]) -> str:
    """Why a model is not loaded; empty where it is."""
    if not NAME.fullmatch(model.name):
        return "the server is not given such a name"
    if model.backend not in BACKENDS:
        return f"the embedded server has no backend {model.backend!r}"
    lacking = sorted(
        {step.model_name for step in model.config.ensemble_scheduling.step if step.model_name in models}
        & {name for name, called in models.items() if called.backend not in BACKENDS}
    )
    return f"the embedded server has no backend for {', '.join(lacking)}" if lacking else ""


def _callees_first(models: Mapping[str, Model]) -> list[str]:
    """Every name once, ensembles after the others: Triton itself loads what an ensemble calls."""
    return sorted(models, key=lambda name: (models[name].is_ensemble, name))
