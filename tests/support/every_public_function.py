"""A user's script that calls every public function of lwc. Type-checked by a test, and never run."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import lwc


def main(texts: list[str], labels: list[int], frame: pd.DataFrame) -> None:
    """From a fine-tuned model to a served one."""
    model = AutoModelForSequenceClassification.from_pretrained("my-model")
    tokenizer = AutoTokenizer.from_pretrained("my-model")
    importance: lwc.Importance = lwc.score(model, tokenizer, texts, labels, methods=["ablation", "taylor"])
    importance = lwc.score("my-model", None, frame, "stars", methods=[{"method": "shap", "permutations": 4}])
    importance.to_frame().to_csv("scores.csv")
    importance.plot("scores.png").savefig("scores.pdf")
    lowest: list[int] = importance.lowest(4)
    smaller = lwc.remove_blocks(model, lowest)
    smaller.save_pretrained("smaller")
    recovered: lwc.RecoveryResult = lwc.recover(
        smaller,
        teacher=model,
        tokenizer=tokenizer,
        texts=frame["text"],
        settings={"hidden_weight": 0.5},
        progress=print,
    )
    best = max(entry["score"] for entry in recovered.history)
    recovered.model.save_pretrained("recovered")
    exported: lwc.Exported = lwc.export_onnx(recovered, tokenizer, Path("out"), int8=True, shapes=[(1, 32)])
    print(best, exported.path.name, exported.parity["max_abs_diff"], exported.latency["shapes"], exported.precision)
    again = lwc.Exported.read("out")
    repository: Path = lwc.package(again, name="reviews", max_batch_size=16)
    with lwc.serve(repository, http_port=8000) as server:
        answer: lwc.Answer = server.classify(["works well", {"title": "Great", "text": "works well"}])[0]
        print(answer.label, answer.score, answer.scores["good"], server.http_url)
    running: lwc.Server = lwc.serve(str(repository)).start()
    running.stop()
    try:
        run: lwc.Run = lwc.run("recipes/amazon_2.5x.yaml", overrides=["train.epochs=1"])
        print(run.passed, run.folder, run.model, run.report["verdict"]["passed"])
    except lwc.LwcError as error:
        print(error, error.hint, error.exit_code)
    print(importance.ranking, importance.scores, importance.units, importance.excluded, lwc.__version__)
