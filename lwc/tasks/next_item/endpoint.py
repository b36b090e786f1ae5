"""How a recommender is served: item ids in, the next items out, and the test histories that prove it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from lwc.core.errors import ModelError
from lwc.core.store import read_json
from lwc.tasks.endpoint import Exported, Front, Proof, Sample
from lwc.tasks.next_item.histories import Catalogue
from lwc.tasks.next_item.model import PAD
from lwc.tasks.next_item.wire import ItemWire, K

_SCRIPT = Path(__file__).parent / "backends" / "next_item_model.py"


class ItemEndpoint:
    """``<name>`` (item ids → items, scores, skipped) in front of ``<name>_graph`` (token ids → top-k).

    The catalogue is in the front's version folder, and its SHA-256 in both configurations: a model served with
    another one than it was trained with does not load.
    """

    def front(self, model_dir: Path, graph: Exported, name: str, fields: Sequence[str] = ()) -> Front:
        """Graph, checkpoint and catalogue must agree on the number of items."""
        del fields
        catalogue = Catalogue.read(model_dir / "catalogue.json")
        config = read_json(model_dir / "config.json")
        if int(config["vocab_size"]) != len(catalogue) + 1:
            raise ModelError(
                f"{model_dir}: {config['vocab_size']} tokens for {len(catalogue)} items", "rerun the train stage"
            )
        max_length, top_k = int(config["n_positions"]), graph.outputs["items"][-1]
        if not 1 <= top_k <= len(catalogue):
            raise ModelError(
                f"{graph.path}: answers have {top_k} items, the catalogue {len(catalogue)}", "export it again"
            )
        digest = {"catalogue_sha256": catalogue.digest()}
        return Front(
            graph=f"{name}_graph",
            script=_SCRIPT,
            # Histories of unequal length are answered together: the front gets each request as it is.
            inputs=[
                {"name": "history", "data_type": "TYPE_STRING", "dims": [-1], "allow_ragged_batch": True},
                {"name": "k", "data_type": "TYPE_INT32", "dims": [1], "optional": True},
            ],
            outputs=[
                {"name": "items", "data_type": "TYPE_STRING", "dims": [-1]},
                {"name": "scores", "data_type": "TYPE_FP32", "dims": [-1]},
                {"name": "skipped", "data_type": "TYPE_INT32", "dims": [1]},
            ],
            parameters={"graph": f"{name}_graph", "max_length": str(max_length), "top_k": str(top_k), **digest},
            graph_parameters=digest,
            files={"catalogue.json": model_dir / "catalogue.json"},
            max_length=max_length,
            warm_up_length=min(8, max_length),
            row=_popular,
            described={"model": name, "items": len(catalogue)},
            example={"history": list(catalogue.items[:2])},
            about=[
                "`history` takes the item ids of one user, the oldest first. The model skips ids that are not in its"
                f" catalogue and counts them in `skipped`; it reads the last {max_length} of the others and never"
                " recommends one of them. A history without a known item is answered with the most popular items.",
                f"`k` is optional: how many items to recommend, {min(K, top_k)} by default and at most {top_k}.",
                "`items` are the recommended ids, the best first, and `scores` are theirs.",
            ],
        )

    def proof(self, data_dir: Path, evaluation_dir: Path, reduced: Path | None = None) -> Proof:
        """The test users' histories and targets (None where train never saw them) with the offline list of ten."""
        table = pq.read_table(evaluation_dir / "predictions.parquet").to_pydict()
        rows = zip(table["history"], table["target"], table["items"], strict=True)
        samples = [Sample(number, history, target, items[:K]) for number, (history, target, items) in enumerate(rows)]
        return Proof(samples, ItemWire())


def _popular(length: int) -> dict[str, list[int]]:
    """The most popular item, again and again."""
    return {"input_ids": [PAD + 1] * length, "attention_mask": [1] * length, "seen": [PAD] * length}
