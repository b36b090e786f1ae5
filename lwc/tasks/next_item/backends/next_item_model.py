"""A history of item ids in, the next items out: the front of a recommender's repository that lwc wrote.

Runs in Triton's Python backend, embedded or in the official image, with NumPy only. Unknown items are skipped and
counted, empty ids are padding of a batch and are not; a history without one known item is answered with the
popularity list. A bad request is an error of its own and of no other.
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

# Nobody has taken more; the seen-filter of a longer one would hold up all others.
MAX_HISTORY = 8192
LOWEST = np.finfo(np.float32).min


class TritonPythonModel:
    """See the module's text."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        settings = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.graph = settings["graph"]
        self.max_length = int(settings["max_length"])
        self.top_k = int(settings["top_k"])
        self.default_k = min(10, self.top_k)
        path = Path(args["model_repository"]) / args["model_version"] / "catalogue.json"
        catalogue = json.loads(path.read_text(encoding="utf-8"))
        if catalogue["sha256"] != settings["catalogue_sha256"]:
            raise ValueError(f"{path} is not the catalogue that the model was trained with")
        self.items = catalogue["items"]
        self.numbers = {item: number for number, item in enumerate(self.items)}
        # Log share of train events, one added to each: what a model that knows nothing of the user would score.
        counts = np.asarray(catalogue["counts"], dtype=np.float64) + 1
        self.popular = np.log(counts / counts.sum()).astype(np.float32)

    def execute(self, requests):
        """Answer every request, each with its own error where it is at fault."""
        responses = [None] * len(requests)
        rows, spans = [], []
        for index, request in enumerate(requests):
            try:
                known, skipped, k = self.read(request)
            except ValueError as error:
                responses[index] = refuse(str(error))
                continue
            spans.append((index, len(rows), len(rows) + len(known), skipped, k))
            rows.extend(known)
        if not spans:
            return responses
        try:
            scores, numbers = self.rank(rows)
        except Exception as error:
            for index, *_ in spans:
                responses[index] = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            return responses
        for index, start, end, skipped, k in spans:
            responses[index] = self.answer(scores[start:end, :k], numbers[start:end, :k], skipped)
        return responses

    def read(self, request):
        """Known item numbers of each history, how many were skipped, and k; ValueError says what is at fault."""
        raw = pb_utils.get_input_tensor_by_name(request, "history").as_numpy()
        if raw.shape[1] > MAX_HISTORY:
            raise ValueError(f"history: {raw.shape[1]} items, at most {MAX_HISTORY}")
        known, skipped = [], []
        for position, history in enumerate(raw):
            try:
                ids = [value.decode("utf-8") if isinstance(value, bytes) else str(value) for value in history]
            except UnicodeDecodeError:
                raise ValueError(f"history {position}: an item id is not valid UTF-8") from None
            ids = [item for item in ids if item]
            mine = [self.numbers[item] for item in ids if item in self.numbers]
            known.append(mine)
            skipped.append(len(ids) - len(mine))
        return known, skipped, self.read_k(request)

    def read_k(self, request):
        """How many items are wanted: one number for the whole request, 10 where it is not given."""
        tensor = pb_utils.get_input_tensor_by_name(request, "k")
        if tensor is None:
            return self.default_k
        wanted = {int(value) for value in tensor.as_numpy().reshape(-1)}
        if len(wanted) != 1 or not 1 <= min(wanted) <= self.top_k:
            raise ValueError(f"k: {sorted(wanted)}, it must be one number from 1 to {self.top_k}")
        return wanted.pop()

    def rank(self, rows):
        """Scores and item numbers (B, K) of known histories, from the graph; empty ones from the popularity list."""
        scores = np.tile(self.popular[: self.top_k], (len(rows), 1))
        numbers = np.tile(np.arange(self.top_k, dtype=np.int64), (len(rows), 1))
        asked = [place for place, row in enumerate(rows) if row]
        if asked:
            found = self.infer([rows[place] for place in asked])
            scores[asked], numbers[asked] = found["scores"], found["items"]
        return scores, numbers

    def infer(self, rows):
        """What the graph says of these histories, in one call."""
        last = [row[-self.max_length :] for row in rows]
        width, seen_width = bucket(max(map(len, last)), self.max_length), bucket(max(map(len, rows)), MAX_HISTORY)
        arrays = {
            "input_ids": np.zeros((len(rows), width), dtype=np.int64),
            "attention_mask": np.zeros((len(rows), width), dtype=np.int64),
            "seen": np.zeros((len(rows), seen_width), dtype=np.int64),
        }
        for place, row in enumerate(last):
            # Token 0 is padding: item number i is token i + 1.
            arrays["input_ids"][place, : len(row)] = np.asarray(row) + 1
            arrays["attention_mask"][place, : len(row)] = 1
            arrays["seen"][place, : len(rows[place])] = np.asarray(rows[place]) + 1
        request = pb_utils.InferenceRequest(
            model_name=self.graph,
            requested_output_names=["scores", "items"],
            inputs=[pb_utils.Tensor(name, array) for name, array in arrays.items()],
        )
        response = request.exec()
        if response.has_error():
            raise RuntimeError(response.error().message())
        return {name: pb_utils.get_output_tensor_by_name(response, name).as_numpy() for name in ("scores", "items")}

    def answer(self, scores, numbers, skipped):
        """Item ids and scores (B, k), skipped (B, 1). An id is empty where all that is left has been seen."""
        if not np.isfinite(scores).all():
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("the model's answer is not finite"))
        ids = np.array(
            [
                [
                    self.items[number].encode("utf-8") if score > LOWEST else b""
                    for score, number in zip(*row, strict=True)
                ]
                for row in zip(scores, numbers, strict=True)
            ],
            dtype=np.object_,
        )
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("items", ids),
                pb_utils.Tensor("scores", np.ascontiguousarray(scores, dtype=np.float32)),
                pb_utils.Tensor("skipped", np.array(skipped, dtype=np.int32).reshape(-1, 1)),
            ]
        )


def bucket(length, limit):
    """The next power of two from 8 on, at most ``limit``: few different shapes reach the graph."""
    return min(max(8, 1 << (length - 1).bit_length()), limit)


def refuse(message):
    """A response that blames the request (400 over HTTP)."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
