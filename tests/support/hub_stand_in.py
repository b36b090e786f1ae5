"""A local server that answers `huggingface_hub` as the hub does when a folder is uploaded. Not a test."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "hf_of_the_stand_in"


@dataclass
class Hub:
    """What it was sent. ``public`` repositories exist already; weights come in two steps, as Git LFS files."""

    url: str = ""
    public: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    files: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    message: str = ""

    def answer(self, method: str, path: str, body: bytes) -> Any:
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if name not in self.public:
                hidden = asked.get("private") or asked.get("visibility") == "private"
                (self.private if hidden else self.public).add(name)
            return {"url": f"{self.url}/{name}"}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if "/preupload/" in path:
            files = [one["path"] for one in json.loads(body)["files"]]
            return {"files": [
                {"path": one, "uploadMode": "lfs" if one.endswith(".safetensors") else "regular", "shouldIgnore": False}
                for one in files
            ]}  # fmt: skip
        if path.endswith("/objects/batch"):
            return {"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {"href": f"{self.url}/blobs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]}  # fmt: skip
        if method == "PUT":
            self.blobs[path.rpartition("/")[2]] = body
            return {}
        if "/commit/" in path:
            self._commit([json.loads(line) for line in body.splitlines()])
            return {"success": True, "commitOid": "a" * 40, "commitUrl": f"{self.url}/me/x/commit/{'a' * 40}"}
        name = path.removeprefix("/api/models/")
        return {"id": name, "private": name in self.private, "siblings": [], "tags": []}

    def _commit(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.message = value["summary"]
            else:
                content = self.blobs[value["oid"]] if "oid" in value else base64.b64decode(value["content"])
                self.files[value["path"]] = content


@contextmanager
def hub(**known: set[str]) -> Iterator[Hub]:
    """A running one; requests without `TOKEN` are refused with 401."""
    found = Hub(**known)  # type: ignore[arg-type]

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            known = self.command == "PUT" or self.headers.get("Authorization") == f"Bearer {TOKEN}"
            answer = found.answer(self.command, self.path, body) if known else {"error": "Invalid credentials"}
            sent = json.dumps(answer).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PUT = _do

        def log_message(self, *_: object) -> None:
            """Nothing: a test's output is its own."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_port}"
        Thread(target=server.serve_forever, daemon=True).start()
        yield found
        server.shutdown()
