"""Text in, label and scores out: the text model of a repository that lwc wrote.

Runs in Triton's Python backend, embedded or in the official image, with NumPy and ``tokenizers`` only. Texts come as
users have them and are cleaned like those that the model was trained and evaluated on. All requests of a batch are
tokenized together and sent to the token model as one batch, so that texts of unequal length batch. A model that was
trained on titles and bodies takes a title too, and joins both as its training data was joined.
A bad text is an error of its own request and of no other.
"""

import ctypes
import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

# Beside this file in the repository.
from cleaning import MAX_CHARACTERS, clean, join
from text_reader import TextReader

# After tokenizing this many characters the memory that glibc keeps of it, hundreds of bytes each, goes back.
TRIM_CHARACTERS = 20_000


class TritonPythonModel:
    """See the module's text."""

    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"])
        settings = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.token_model = settings["token_model"]
        self.inputs = settings["token_inputs"].split(",")
        self.buckets = [int(size) for size in settings["length_buckets"].split(",")]
        self.pad_id = int(settings["pad_id"])
        # In their order: inputs of the request, ``body`` by the name of the input with the text.
        self.fields = ["text" if one == "body" else one for one in settings.get("text_fields", "body").split(",")]
        self.reader = TextReader(folder / args["model_version"], settings, clean)
        clean("\0")  # builds a table that the first text with such a character would wait for
        names = (folder / "labels.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        self.numbers = np.array([float(name) for name in names]) if settings["choice"] == "number" else None
        self.trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
        self.labels = np.array([name.encode("utf-8") for name in names], dtype=np.object_)

    def execute(self, requests):
        """Answer every request, each with its own error where its texts are at fault."""
        responses = [None] * len(requests)
        texts, spans = [], []
        for index, request in enumerate(requests):
            try:
                mine = self.read(request)
            except ValueError as error:
                responses[index] = refuse(str(error))
                continue
            spans.append((index, len(texts), len(texts) + len(mine)))
            texts.extend(mine)
        if texts:
            try:
                logits = self.classify(texts)
            except Exception as error:
                for index, _, _ in spans:
                    responses[index] = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
                return responses
            for index, start, end in spans:
                responses[index] = self.answer(logits[start:end])
            if self.trim and sum(map(len, texts)) > TRIM_CHARACTERS:
                self.trim(0)
        return responses

    def read(self, request):
        """Clean texts of a request; ValueError says which one is at fault and why."""
        given = {"text": strings(request, "text"), "title": strings(request, "title")}
        raw = given["text"]
        if given["title"] is not None:
            # One request has as many titles as texts: Triton refuses others.
            raw = [join(parts) for parts in zip(*(given[field] for field in self.fields), strict=True)]
        texts = []
        for position, text in enumerate(raw):
            if len(text) > MAX_CHARACTERS:
                raise ValueError(f"text {position}: {len(text)} characters, at most {MAX_CHARACTERS}")
            texts.append(self.reader.clean(text))
            if not texts[-1]:
                raise ValueError(f"text {position}: empty" + (" but for tags and spaces" if text.strip() else ""))
        return texts

    def classify(self, texts):
        """Logits (B, C) of the texts, from the token model."""
        encodings = self.reader.tokens(texts)
        longest = max(len(encoding.ids) for encoding in encodings)
        width = next(size for size in self.buckets if size >= longest)
        arrays = {name: np.zeros((len(texts), width), dtype=np.int64) for name in self.inputs}
        if "input_ids" in arrays:
            arrays["input_ids"].fill(self.pad_id)
        for row, encoding in enumerate(encodings):
            length = len(encoding.ids)
            values = {
                "input_ids": encoding.ids,
                "attention_mask": encoding.attention_mask,
                "token_type_ids": encoding.type_ids,
            }
            for name, array in arrays.items():
                array[row, :length] = values[name]
        request = pb_utils.InferenceRequest(
            model_name=self.token_model,
            requested_output_names=["logits"],
            inputs=[pb_utils.Tensor(name, array) for name, array in arrays.items()],
        )
        response = request.exec()
        if response.has_error():
            raise RuntimeError(response.error().message())
        return pb_utils.get_output_tensor_by_name(response, "logits").as_numpy()

    def answer(self, logits):
        """Labels (B, 1) and scores: (B, C) that sum to 1, or the number itself (B, 1), whose label is the nearest one.

        An answer that is not finite is an error.
        """
        if not np.isfinite(logits).all():
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("the model's answer is not finite"))
        if self.numbers is not None:
            chosen, scores = np.abs(logits - self.numbers).argmin(axis=1), logits
        else:
            shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
            chosen, scores = logits.argmax(axis=1), shifted / shifted.sum(axis=1, keepdims=True)
        labels, scores = self.labels[chosen].reshape(-1, 1), scores.astype(np.float32)
        return pb_utils.InferenceResponse([pb_utils.Tensor("label", labels), pb_utils.Tensor("scores", scores)])


def strings(request, name):
    """The elements of an input as strings; None where the request does not have it."""
    tensor = pb_utils.get_input_tensor_by_name(request, name)
    if tensor is None:
        return None
    found = []
    for position, value in enumerate(tensor.as_numpy().reshape(-1)):
        try:
            found.append(value.decode("utf-8") if isinstance(value, bytes) else str(value))
        except UnicodeDecodeError:
            raise ValueError(f"{name} {position}: not valid UTF-8") from None
    return found


def refuse(message):
    """A response that blames the request (400 over HTTP)."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG))
