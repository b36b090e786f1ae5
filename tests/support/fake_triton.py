"""A tiny v2-protocol server with planted faults, for the load test's own tests.

Run as a script: ``fake_triton.py <settings.json>``; prints one JSON line with the ports when it listens.
Its answer to a text: ``settings["answers"][text]``, else the first class. ``fail_every``, ``wrong_every``,
``nan_every``: the n-th, 2n-th, ... request (after the first ``after``) goes wrong. ``delay_s``: before each answer;
``one_at_a_time``: the others wait.
``input`` and ``label`` are other names of those tensors, ``tensors`` other metadata; ``also`` lists models
that are described, and not served.
``/metrics`` of the HTTP port counts what was answered, and the most requests at a time; ``no_metrics`` closes it.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import struct
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from tritonclient.grpc import service_pb2, service_pb2_grpc

S: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
NAMES: list[str] = S["names"]
COUNT = itertools.count(1)
TEXT, LABEL = S.get("input", "text"), S.get("label", "label")
TENSORS: dict[str, Any] = S.get("tensors") or {
    "inputs": [{"name": TEXT, "datatype": "BYTES", "shape": [-1, 1]}],
    "outputs": [
        {"name": LABEL, "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "scores", "datatype": "FP32", "shape": [-1, len(NAMES)]},
    ],
}
ALONE, COUNTING = threading.Lock(), threading.Lock()
ANSWERED = [0]
UNDER_WAY, MOST = [0], [0]


class Refused(Exception):
    pass


def answer(raw: bytes) -> tuple[bytes, bytes]:
    (length,) = struct.unpack_from("<I", raw)
    text = raw[4 : 4 + length].decode("utf-8")
    if len(raw) != 4 + length:
        raise Refused("bad tensor")
    number = next(COUNT)
    with COUNTING:
        UNDER_WAY[0] += 1
        MOST[0] = max(MOST[0], UNDER_WAY[0])
    with ALONE if S.get("one_at_a_time") else contextlib.nullcontext():
        time.sleep(S.get("delay_s", 0.002))
    with COUNTING:
        UNDER_WAY[0] -= 1
    label = S["answers"].get(text, NAMES[0])
    if S.get("fail_every") and number % S["fail_every"] == 0:
        raise Refused("planted failure")
    if S.get("wrong_every") and number % S["wrong_every"] == 0:
        label = NAMES[(NAMES.index(label) + 1) % len(NAMES)]
    scores = [1.0 if name == label else -1.0 for name in NAMES]
    if S.get("nan_every") and number % S["nan_every"] == 0:
        scores[0] = float("nan")
    with COUNTING:
        ANSWERED[0] += 1
    out = S.get("rename", {}).get(label, label).encode("utf-8")
    return struct.pack("<I", len(out)) + out, struct.pack(f"<{len(scores)}f", *scores)


def metrics() -> str:
    """Counters as Triton writes them: two texts an execution; per request 3 ms queue, 1 + 5 + 0.5 ms computing."""
    done = ANSWERED[0]
    values = {
        "request_success": done, "count": done, "exec_count": done // 2, "request_duration_us": 9500 * done,
        "queue_duration_us": 3000 * done, "compute_input_duration_us": 1000 * done,
        "compute_infer_duration_us": 5000 * done, "compute_output_duration_us": 500 * done,
    }  # fmt: skip
    lines = []
    for name, value in values.items():
        lines += [f"# HELP nv_inference_{name} words", f"# TYPE nv_inference_{name} counter"]
        # A model that nobody calls has counters too.
        lines += [f'nv_inference_{name}{{model="{m}",version="1"}} {v}' for m, v in ((S["model"], value), ("idle", 7))]
    page = "\n".join([*lines, "# TYPE nv_cpu_utilization gauge", "nv_cpu_utilization 0.5"])
    return f"{page}\n# TYPE fake_most_at_once gauge\nfake_most_at_once {MOST[0]}\n"


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        split = int(self.headers["Inference-Header-Content-Length"])
        header = json.loads(body[:split])
        tensor = header["inputs"][0]
        try:
            if self.path != f"/v2/models/{S['model']}/infer":
                raise Refused("unknown model")
            assert tensor["name"] == TENSORS["inputs"][0]["name"]
            assert tensor["shape"] == [1] * len(TENSORS["inputs"][0]["shape"])
            assert tensor["datatype"] == "BYTES"
            assert tensor["parameters"]["binary_data_size"] == len(body) - split
            assert all(output["parameters"]["binary_data"] is True for output in header["outputs"])
            label, scores = answer(body[split:])
        except Refused as error:
            self.reply(400, json.dumps({"error": str(error)}).encode(), None)
            return
        outputs = [
            {"name": n, "datatype": d, "shape": s, "parameters": {"binary_data_size": len(b)}}
            for n, d, s, b in ((LABEL, "BYTES", [1, 1], label), ("scores", "FP32", [1, len(NAMES)], scores))
        ]
        head = json.dumps({"model_name": S["model"], "outputs": outputs}).encode()
        self.reply(200, head + label + scores, len(head))

    def do_GET(self) -> None:
        if self.path in [f"/v2/models/{name}" for name in (S["model"], *S.get("also", []))]:
            self.reply(200, json.dumps(TENSORS).encode(), None)
        elif self.path.startswith("/v2/models/"):
            self.reply(404, b'{"error": "unknown model"}', None)
        elif self.path == "/metrics" and not S.get("no_metrics"):
            self.reply(200, metrics().encode(), None)
        else:
            self.reply(404, b'{"error": "nothing here"}', None)

    def reply(self, status: int, body: bytes, split: int | None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if split is not None:
            self.send_header("Inference-Header-Content-Length", str(split))
        self.end_headers()
        self.wfile.write(body)


class Grpc(service_pb2_grpc.GRPCInferenceServiceServicer):
    def ModelMetadata(self, request: Any, context: Any) -> Any:
        if request.name != S["model"]:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown model")
        response = service_pb2.ModelMetadataResponse(name=S["model"])
        for side, listed in TENSORS.items():
            for tensor in listed:
                getattr(response, side).add(**tensor)
        return response

    def ModelInfer(self, request: Any, context: Any) -> Any:
        try:
            if request.model_name != S["model"]:
                raise Refused("unknown model")
            label, scores = answer(request.raw_input_contents[0])
        except Refused as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        response = service_pb2.ModelInferResponse(model_name=S["model"])
        response.outputs.add(name=LABEL, datatype="BYTES", shape=[1, 1])
        response.outputs.add(name="scores", datatype="FP32", shape=[1, len(NAMES)])
        response.raw_output_contents.extend([label, scores])
        return response


def main() -> None:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Http)
    http.daemon_threads = True
    server = grpc.server(ThreadPoolExecutor(32))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Grpc(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(json.dumps({"http": http.server_address[1], "grpc": port}), flush=True)
    http.serve_forever()


if __name__ == "__main__":
    main()
