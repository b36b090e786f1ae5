"""How a model that reads text is served: text in, label and scores out, whatever it learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from tokenizers import Tokenizer

from lwc.core.errors import DataError, ModelError
from lwc.core.spelling import number_name
from lwc.core.store import read_json
from lwc.data import cleaning
from lwc.data.prepare import TEST_RAW, takes_title
from lwc.models.source import is_language_model
from lwc.models.token_names import token_names
from lwc.tasks.backends import text_reader
from lwc.tasks.backends.text_reader import TextReader
from lwc.tasks.endpoint import Exported, Front, Proof, Question, Sample
from lwc.tasks.text_wire import TEXT, TITLE, TextWire

# Neither praise nor blame, and in no vocabulary a problem: what is not known becomes the unknown token.
_WARM_UP_TEXT = "The product arrived on time and does what its description says. "
_BACKENDS = Path(__file__).parent / "backends"
# What tokenizers are known to treat in more than one way, besides texts that are too long.
_PROBES = (
    "Five stars: works well.", "Don't buy!!! 3,000 mAh? It's 2.5x worse…", "Crème brûlée, naïve façade, Straße, ИГРА",
    "很好用 とても良い 정말 좋아요 جيد जी", "☕👍🏽👩\u200d🚀", "UPPER lower MiXeD", "a  b\tc\nd", "x" * 300,
    "1 22 333 4444", "<br />Tags &amp; entities &lt;b&gt;bold&lt;/b&gt;", "https://example.com/a?b=c#d user@a.com",
)  # fmt: skip


@dataclass(frozen=True)
class TextEndpoint:
    """``<name>`` (text → label, scores) in front of ``<name>_tokens`` (token ids → logits).

    A model that was trained on titles and bodies takes ``title`` as an optional second input.

    ``classes``: an answer has a score for each label, so the load test expects as many.
    """

    classes: bool = True

    def front(self, model_dir: Path, graph: Exported, name: str, fields: Sequence[str] = ()) -> Front:
        """Labels and tokenizer come from the checkpoint, the number of scores must be that of the graph."""
        config, tokenizer = (read_json(model_dir / file) for file in ("config.json", "tokenizer_config.json"))
        reader = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
        names, size, choice = _answers(config, reader)
        logits = next(iter(graph.outputs.values()))[-1]
        if logits not in (-1, size):
            raise ModelError(f"{graph.path}: {logits} outputs for {size} labels", "export the model of this checkpoint")
        max_length = _max_length(config, tokenizer)
        pad_id = _pad_id(tokenizer, reader, model_dir)
        reading = _reading(tokenizer, reader, max_length)
        _check_tokens(model_dir, reading, max_length)
        tokens, titled = f"{name}_tokens", takes_title(fields)
        return Front(
            graph=tokens,
            script=_BACKENDS / "text_model.py",
            inputs=[
                {"name": "text", "data_type": "TYPE_STRING", "dims": [1]},
                *([{"name": TITLE, "data_type": "TYPE_STRING", "dims": [1], "optional": True}] if titled else []),
            ],
            outputs=[
                {"name": "label", "data_type": "TYPE_STRING", "dims": [1]},
                {"name": "scores", "data_type": "TYPE_FP32", "dims": [size]},
            ],
            parameters={
                "token_model": tokens,
                "token_inputs": ",".join(graph.inputs),
                "length_buckets": ",".join(str(size) for size in length_buckets(max_length, graph.shortest)),
                "pad_id": str(pad_id),
                "choice": choice,
                **({"text_fields": ",".join(fields)} if fields else {}),
                **reading,
            },
            files={
                "tokenizer.json": model_dir / "tokenizer.json",
                "cleaning.py": Path(cleaning.__file__),
                "text_reader.py": Path(text_reader.__file__),
            },
            max_length=max_length,
            warm_up_length=min(32, max_length),
            row=partial(_text_row, reader, pad_id),
            described={"text_model": name, "token_model": tokens, "outputs": size, "max_length": max_length},
            example={**({TITLE: "Great cable"} if titled else {}), TEXT: "It works well."},
            about=_about(fields, reading, choice),
            labels=names,
            graph_labels=names if choice == "class" else [choice],
        )

    def proof(self, data_dir: Path, evaluation_dir: Path, reduced: Path | None = None) -> Proof:
        """The test split in its order, texts as the source has them; labels by name, of a language model tokens."""
        names = [str(name) for name in read_json(data_dir / "labels.json")]
        test = pd.read_parquet(data_dir / "test.parquet", columns=["id", "text", "label"])
        raw = pd.read_parquet(data_dir / TEST_RAW).set_index("id")
        title = TITLE if TITLE in raw else None
        test["text"] = test["id"].map(raw["text"]).fillna(test["text"])
        if title is not None:
            test[title] = test["id"].map(raw[title])
        predictions = pd.read_parquet(evaluation_dir / "predictions.parquet", columns=["id", "label", "compressed"])
        if not test["id"].is_unique or not predictions["id"].is_unique or set(test["id"]) != set(predictions["id"]):
            raise DataError(
                f"{evaluation_dir} was not made from the test split in {data_dir}: the ids differ",
                "run the evaluate stage again",
            )
        if reduced is not None:
            found = pd.read_parquet(reduced, columns=["id", "compressed"])
            predictions = predictions.drop(columns="compressed").merge(
                found, on="id", how="left", validate="one_to_one"
            )
        joined = test.merge(predictions, on="id", suffixes=("", "_evaluated"), how="left", validate="one_to_one")
        true, given = joined["label_evaluated"], joined["compressed"]
        name: Callable[[Any], str]
        if pd.api.types.is_string_dtype(true):  # tokens
            wire, name = TextWire(title=title), str
        elif not (joined["label"] == true).all():
            raise DataError(f"{evaluation_dir}: labels differ from those in {data_dir}", "run the evaluate stage again")
        elif not pd.concat([true, given]).between(0, len(names) - 1).all():
            raise DataError(
                f"a label id is outside the {len(names)} names in {data_dir / 'labels.json'}",
                "run the evaluate stage again",
            )
        else:
            if not self.classes:  # as the endpoint spells numbers
                names = [number_name(float(one)) for one in names]
            wire, name = TextWire(names=tuple(names) if self.classes else None, title=title), names.__getitem__
        asked: list[Question] = [str(text) for text in joined["text"]]
        if title is not None:
            pairs = zip(joined[title], joined["text"], strict=True)
            asked = [{TITLE: str(first), TEXT: str(text)} for first, text in pairs]
        rows = zip(joined["id"], asked, true, given, strict=True)
        return Proof([Sample(int(i), question, name(y), name(p)) for i, question, y, p in rows], wire)


def _about(fields: Sequence[str], reading: Mapping[str, str], choice: str) -> list[str]:
    """How the model reads a text, and what its answer means, for people who write requests."""
    end = "first" if reading["truncation_side"] == "right" else "last"
    found = [
        "`text` is a text as users write it. The model decodes entities, removes tags and control characters, and reads"
        f" the {end} {reading['max_length']} tokens."
    ]
    if takes_title(fields):
        first, second = fields
        found.append(
            "The model was trained on titles and bodies, joined into one text:"
            f" the {first}, a line break, the {second}. If one is empty, there is no line break. Send the body as"
            " `text` and the title as `title`, which is optional, and the model joins them in this way; or join them"
            " yourself, and send only `text`."
        )
    elif fields:
        mine, other = ("titles", "body") if fields[0] == "title" else ("bodies", "title")
        found.append(f"The model was trained on {mine} alone: send `text` without a {other}.")
    if choice == "class":
        found.append(
            "`label` is the line of `labels.txt` with the highest score; `scores` are in the order of its lines."
        )
    else:
        found.append("`scores` is the predicted number, and `label` the nearest one of `labels.txt`.")
    return found


def _answers(config: dict[str, Any], reader: Tokenizer) -> tuple[list[str], int, str]:
    """Names of the labels, how many scores, and how the text model chooses by its parameter ``choice``.

    ``class`` is the name of the highest logit. ``number`` is the name nearest to the one logit, which is the score.
    All of it is read from the checkpoint, never typed twice. A language model's classes are the tokens of its
    vocabulary.
    """
    if is_language_model(config.get("architectures")):
        size = int(config["vocab_size"])
        return token_names(reader, size), size, "class"
    if config.get("problem_type") == "regression":
        if not config.get("numbers"):
            raise ModelError(
                "the model's config does not name the numbers that its labels stand for",
                "set them before the model is saved or exported: model.config.numbers = [1.0, 2.0, …]",
            )
        return [number_name(number) for number in config["numbers"]], 1, "number"
    names = _labels(config)
    return names, len(names), "class"


def _labels(config: dict[str, Any]) -> list[str]:
    """Class names in id order."""
    # transformers leaves out names that are its own defaults.
    given = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    names = {int(index): str(name) for index, name in given.items()}
    if sorted(names) != list(range(len(names))):
        raise ModelError(f"id2label has ids {sorted(names)}", "number the labels from 0 without gaps")
    return check_names([names[index] for index in range(len(names))])


def check_names(names: list[str]) -> list[str]:
    """The names; raises `ModelError` where one cannot be a line of labels.txt."""
    for name in names:
        if "\n" in name or "\r" in name:
            raise ModelError(
                f"label {name!r} contains a line break",
                "name it in one line with data.labels.map: labels.txt has one label a line",
            )
    return names


def _max_length(config: dict[str, Any], tokenizer: dict[str, Any]) -> int:
    """Where texts are cut; tokenizers without a limit carry 10^30 for it."""
    length, positions = tokenizer.get("model_max_length"), config.get("max_position_embeddings")
    if length is None or (positions is not None and int(length) > int(positions)):
        raise ModelError(
            f"the tokenizer's model_max_length is {length}, the model has {positions} positions",
            "set model_max_length in tokenizer_config.json to the length that the model was trained on",
        )
    return int(length)


def _reading(config: dict[str, Any], reader: Tokenizer, max_length: int) -> dict[str, str]:
    """Settings of the `TextReader` for a checkpoint's tokenizer, found as transformers finds them."""
    stored = (reader.truncation or {}).get("direction", "right")
    return {
        "max_length": str(max_length),
        "truncation_side": str(config.get("truncation_side") or stored),
        "split_special_tokens": "true" if config.get("split_special_tokens") else "false",
    }


def _check_tokens(model_dir: Path, reading: dict[str, str], max_length: int) -> None:
    """Raise `ModelError` where the server would read a text as other tokens than evaluation did."""
    from lwc.models.load import load_tokenizer

    offline, served = load_tokenizer(model_dir), TextReader(model_dir, reading, cleaning.clean)
    long = " ".join(f"word{number}" for number in range(2 * max_length))
    special = " ".join(("a", *map(str, offline.all_special_tokens), "b"))
    for text in (*_PROBES, special, long):
        clean = cleaning.clean(text)
        wanted = offline(clean, add_special_tokens=True, truncation=True, max_length=max_length)
        given = served.tokens([clean])[0]
        for name, ids in {"input_ids": given.ids, "token_type_ids": given.type_ids}.items():
            if name in wanted and list(wanted[name]) != ids:
                raise ModelError(
                    f"{model_dir}: the server would read {text[:60]!r} as other {name} than transformers does:"
                    f" {ids[:12]}, not {list(wanted[name])[:12]}",
                    "tokenizer.json must contain all that the tokenizer does: save the fast tokenizer again, without"
                    " options that only Python applies",
                )


def _pad_id(tokenizer: dict[str, Any], reader: Tokenizer, model_dir: Path) -> int:
    """The tokenizer's own padding id, which training pads with too; the config's may be absent or another."""
    token = tokenizer.get("pad_token")
    text = token.get("content") if isinstance(token, dict) else token
    number = reader.token_to_id(text) if text else None
    if number is None:
        raise ModelError(f"{model_dir}: its tokenizer has no padding token", "set pad_token and save it again")
    return int(number)


def _text_row(reader: Tokenizer, pad_id: int, length: int) -> dict[str, list[int]]:
    """A real text, cut or padded to so many tokens."""
    reader.enable_truncation(length)
    reader.enable_padding(length=length, pad_id=pad_id)
    text = reader.encode(_WARM_UP_TEXT * (1 + length // 8))
    return {"input_ids": text.ids, "attention_mask": text.attention_mask, "token_type_ids": text.type_ids}


def length_buckets(max_length: int, shortest: int = 1) -> list[int]:
    """Lengths that texts are padded to, from ``shortest`` on: powers of two and midpoints up to ``max_length``."""
    sizes = {size for power in range(3, 14) for size in (2**power, 3 * 2 ** (power - 1))}
    return [size for size in (*sorted(size for size in sizes if size < max_length), max_length) if size >= shortest]
