"""Tell a running Triton which models to load, over its repository interface (HTTP)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx2

from lwc.core import http
from lwc.core.errors import GATE_FAILED, USAGE, ServingError
from lwc.serving.triton.embedded import RESTRICTED_HEADER

# Loading a TensorRT engine or a large ONNX file, and its warm-up, may take minutes.
LOAD_SECONDS = 300.0
_POLL_SECONDS = 0.1
_NOBODY = "lwc-no-such-model"
_MODES = "serve with `lwc serve --control`, with --model-control-mode=explicit, or with --model-control-mode=poll"


@dataclass(frozen=True)
class Control:
    """A server that loads models while it runs: on request (``explicit``), or because it polls its repository."""

    url: str
    key: str
    explicit: bool
    seconds: float = LOAD_SECONDS

    def load(self, model: str, version: int | None = None) -> None:
        """Load ``model`` as its files now are, and wait until it is ready, or ``version`` of it.

        Raises:
            ServingError: it does not load (exit 3), in the server's own words, or not in time.
        """
        if self.explicit:
            answer = _post(self.url, self.key, f"models/{model}/load", self.seconds)
            if answer.status_code != 200:
                hint = f"the server must read the folder that is deployed to; it said {answer.status_code}"
                raise ServingError(f"{model} does not load: {words(answer)}", hint, GATE_FAILED)
        what = f"/v2/models/{model}" + (f"/versions/{version}" if version is not None else "")
        self._wait(lambda: _get_status(self.url, f"{what}/ready") == 200, f"{what} is not ready")

    def unload(self, model: str) -> None:
        """Unload ``model`` and wait until nothing of it is left; a server that polls does so once its folder is gone.

        Raises:
            ServingError: the server refuses, or requests keep the model busy for too long.
        """
        if self.explicit:
            answer = _post(self.url, self.key, f"models/{model}/unload", self.seconds)
            if answer.status_code != 200:
                raise ServingError(f"{model} does not unload: {words(answer)}", "run the command again")
            self._wait(lambda: not self._in_memory(model, None), f"{model} does not end")

    def wait_for_end_of(self, model: str, version: int) -> None:
        """Wait until the last request to a version that was replaced is answered.

        Raises:
            ServingError: requests keep it busy for too long.
        """
        self._wait(lambda: not self._in_memory(model, version), f"version {version} of {model} does not end")

    def _in_memory(self, model: str, version: int | None) -> bool:
        answer = _post(self.url, self.key, "index", self.seconds)
        if answer.status_code != 200:
            raise ServingError(f"{self.url} does not list its models: {words(answer)}", "run the command again")
        return any(
            entry["name"] == model and version in (None, int(entry["version"])) and entry["state"] != "UNAVAILABLE"
            for entry in answer.json()
            if entry.get("version")  # a model that was never loaded has none
        )

    def _wait(self, done: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.seconds
        while not done():
            if time.monotonic() > deadline:
                hint = "allow more with --seconds" if self.explicit else f"does the server poll? Else {_MODES}"
                raise ServingError(f"{what} after {self.seconds:g} seconds", hint, GATE_FAILED)
            time.sleep(_POLL_SECONDS)


def connect(url: str, key: str, seconds: float = LOAD_SECONDS) -> Control:
    """The server at ``url`` (``host:port``), once it lets models be loaded.

    ``key`` opens the repository interface where it is restricted; empty where it is not.

    Raises:
        ServingError: nothing answers there, or the key is wrong (exit 2).
    """
    url = url.removeprefix("http://").rstrip("/")
    answer = _post(url, key, "index", seconds)
    if answer.status_code != 200:
        restricted = answer.status_code == 403
        hint = "put the server's key into LWC_ADMIN_KEY" if restricted else "give the HTTP address of a Triton"
        raise ServingError(f"{url} does not list its models ({answer.status_code}): {words(answer)}", hint, USAGE)
    # Unloading what is not there changes nothing. Triton refuses it with one message whether it polls or not.
    answer = _post(url, key, f"models/{_NOBODY}/unload", seconds)
    if answer.status_code not in (200, 503):
        what = f"{url} does not load models on request ({answer.status_code}): {words(answer)}"
        raise ServingError(what, _MODES, USAGE)
    return Control(url, key, answer.status_code == 200, seconds)


def _post(url: str, key: str, path: str, seconds: float) -> httpx2.Response:
    """A request to the repository interface; what is answered with 200 is JSON, or nothing."""
    headers = {"Content-Type": "application/json", **({RESTRICTED_HEADER: key} if key else {})}
    try:
        answer = http.request("POST", f"http://{url}/v2/repository/{path}", seconds, b"{}", headers)
        if answer.status_code == 200 and answer.content:
            answer.json()
    except (http.NoAnswer, ValueError) as error:
        what = f"nothing that speaks Triton's protocol answers at {url}: {error}"
        raise ServingError(what, "give host:port of its HTTP interface", USAGE) from error
    return answer


def _get_status(url: str, path: str) -> int:
    try:
        return http.request("GET", f"http://{url}{path}", seconds=10).status_code
    except http.NoAnswer as error:
        raise ServingError(f"the server at {url} went away: {error}", "start it, then run the command again") from error


def words(answer: httpx2.Response) -> str:
    """The server's words of a refusal, without what Python's own frames add to them."""
    try:
        text = str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        text = answer.text
    return text.partition("\n\nAt:\n")[0]
