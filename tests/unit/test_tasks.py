"""Tasks beside classification: the loss of numbers and of tokens, scored, cut, recovered, evaluated and exported."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as functional
from card import run_card
from huggingface_hub import ModelCard
from measured_figures import differences
from planted import SCORERS, config_for, scale_output
from tiny_llama import periodic_texts, save, trained_folder
from tiny_models import tiny, tokens
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from lwc.core.errors import DataError, ModelError, RecipeError
from lwc.core.store import write_json
from lwc.metrics.causal_lm import TokenSums, token_quality, token_retention
from lwc.metrics.regression import number_quality, number_retention, spearman
from lwc.models.batches import Batch, Encoded, batches, slices
from lwc.models.families import block_list, family_of
from lwc.models.load import load_tokenizer
from lwc.models.losses import IGNORED, answer_distance, distillation_loss, example_accuracy, example_loss
from lwc.models.surgery import remove_blocks
from lwc.pipeline.publish import finish
from lwc.pipeline.run import run
from lwc.recipe import Recipe
from lwc.recipe.file import load_recipe
from lwc.tasks.causal_lm import unigram
from lwc.tasks.regression import numbers_of
from lwc.tasks.task import Checkpoint
from lwc.tasks.text_endpoint import TextEndpoint, _answers
from lwc.tasks.text_wire import TextWire
from lwc.training.recovery import recoverer_of

RECIPES = Path(__file__).parents[2] / "recipes"
OF_TOKENS = sorted(set(SCORERS) - {"llama_profile", "mutual_information"})


def quiet(*_: str) -> None:
    return None


def llama(blocks: int = 4) -> Any:
    return tiny("llama", blocks, task=AutoModelForCausalLM)


def token_batches(rows: int = 6, size: int = 3) -> list[Batch]:
    return batches(tokens(rows), None, size, length_bucketed=True, seed=None)


# --- losses -----------------------------------------------------------------------------------


def test_next_token_loss_is_the_mean_over_the_rows_own_tokens() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 7), torch.tensor([[1, 2, 3, 4, 5], [6, 0, 2, IGNORED, IGNORED]])
    loss, right = example_loss(logits, labels), example_accuracy(logits, labels)
    for row, count in ((0, 4), (1, 2)):
        steps = [functional.log_softmax(logits[row, t], dim=-1)[labels[row, t + 1]] for t in range(count)]
        assert float(loss[row]) == pytest.approx(-float(torch.stack(steps).mean()), rel=1e-6)
        hits = [int(logits[row, t].argmax()) == int(labels[row, t + 1]) for t in range(count)]
        assert float(right[row]) == pytest.approx(sum(hits) / count)


def test_numbers_are_compared_by_squared_error() -> None:
    logits, labels = torch.tensor([[1.5], [4.4]]), torch.tensor([1.0, 5.0])
    assert example_loss(logits, labels).tolist() == pytest.approx([0.25, 0.36])
    assert example_accuracy(logits, labels).tolist() == [0.0, 0.0]
    assert example_accuracy(logits, torch.tensor([2.0, 4.0])).tolist() == [1.0, 1.0]


def test_answers_of_tokens_are_compared_where_tokens_are_real() -> None:
    torch.manual_seed(0)
    one, two, mask = torch.randn(2, 4, 5), torch.randn(2, 4, 5), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    expected = distillation_loss(torch.cat([one[0], one[1, :2]]), torch.cat([two[0], two[1, :2]]), 2.0)
    assert float(answer_distance(one, two, mask, 2.0)) == pytest.approx(float(expected))
    assert float(answer_distance(torch.tensor([[1.0]]), torch.tensor([[3.0]]), mask, 2.0)) == 4.0


def test_a_loss_of_tokens_is_the_same_with_more_padding() -> None:
    model = llama()
    one = token_batches(6, 6)[0]
    wider = {name: functional.pad(value, (0, 5), value=1 if name == "input_ids" else 0)
             for name, value in one.inputs.items()}  # fmt: skip
    labels = functional.pad(one.labels, (0, 5), value=IGNORED)
    with torch.no_grad():
        found = [
            example_loss(model(**inputs).logits, own) for inputs, own in ((one.inputs, one.labels), (wider, labels))
        ]
    torch.testing.assert_close(*found)


# --- scorers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", OF_TOKENS)
def test_an_identity_block_of_a_language_model_scores_zero(method: str) -> None:
    model = llama()
    family = family_of(model)
    with torch.no_grad():
        for name in ("self_attn.o_proj", "mlp.down_proj"):
            block_list(model, family)[2].get_submodule(name).weight.zero_()
    scores = np.abs(SCORERS[method](model, family, token_batches(), config_for(method)).scores)
    assert scores[2] == pytest.approx(0, abs=1e-6 * scores.max())
    assert (np.delete(scores, 2) > 1e-6 * scores.max()).all()


@pytest.mark.parametrize("method", OF_TOKENS)
def test_scores_of_a_language_model_do_not_depend_on_batches(method: str) -> None:
    model = llama(3)
    found = [
        SCORERS[method](model, family_of(model), token_batches(6, size), config_for(method)).scores for size in (6, 1)
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("method", sorted(set(SCORERS) - {"llama_profile"}))
def test_an_identity_block_of_a_regressor_scores_zero(method: str) -> None:
    model = tiny("modernbert", num_labels=1)
    scale_output(model, 2, 0.0)
    numbers = np.random.default_rng(0).normal(size=24).astype(np.float32).round()
    groups = batches(tokens(24), numbers, 8, length_bucketed=True, seed=None)
    assert groups[0].labels.is_floating_point()
    scores = np.abs(SCORERS[method](model, family_of(model), groups, config_for(method)).scores)
    assert scores[2] == pytest.approx(0, abs=1e-5 * scores.max())


# --- metrics ----------------------------------------------------------------------------------


def test_spearman_is_scipys_and_retention_is_one_for_the_same_answers() -> None:
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    labels = random.integers(1, 6, 80).astype(float)
    guess = labels + random.normal(size=80).round(1)
    assert spearman(labels, guess) == pytest.approx(spearmanr(labels, guess).statistic)
    assert spearman(labels, np.ones(80)) == 0.0
    quality = number_quality(labels, guess, 100, 0)
    assert (
        quality["mean_absolute_error"]["low"] < np.abs(labels - guess).mean() < quality["mean_absolute_error"]["high"]
    )
    kept = number_retention(labels, guess, guess, 100, 0)
    assert all(kept[name] == {"value": 1.0, "low": 1.0, "high": 1.0} for name in kept)
    worse = number_retention(labels, guess, 2 * guess, 100, 0)
    assert worse["mean_absolute_error"]["value"] < 1
    assert worse["spearman"]["value"] == pytest.approx(1)  # the order is the same


@pytest.mark.parametrize(("sign", "noise"), [(-1.0, 0.5), (1.0, 1e9)])  # ρ below 0, and ρ that may be 0
def test_a_base_without_a_positive_rank_correlation_has_none_to_retain(sign: float, noise: float) -> None:
    random = np.random.default_rng(3)
    labels = random.integers(1, 6, 60).astype(float)
    base = sign * labels + noise * random.normal(size=60)
    kept = number_retention(labels, base, -labels, 200, 0)  # a ρ of -1, which a ratio of two negative ones praised
    assert kept["spearman"] == {"value": None, "low": None, "high": None}
    assert kept["mean_absolute_error"]["value"] is not None
    reversed_ = number_retention(labels, labels, -labels, 200, 0)
    assert reversed_["spearman"]["value"] == pytest.approx(-1)


def test_the_endpoint_spells_numbers_as_the_labels_are_spelled(tmp_path: Path) -> None:
    write_json(tmp_path / "labels.json", ["1", "1.50", "0.1", "123456789"])
    ids = np.arange(4)
    pq.write_table(pa.table({"id": ids, "text": list("abcd"), "label": ids}), tmp_path / "test.parquet")
    pq.write_table(pa.table({"id": ids, "label": ids, "compressed": ids}), tmp_path / "predictions.parquet")
    pq.write_table(pa.table({"id": ids[:0], "text": []}), tmp_path / "test_raw.parquet")
    proof = TextEndpoint(classes=False).proof(tmp_path, tmp_path)
    reader: Any = None
    for numbers in ([1.0, 1.5, 0.1, 123456789.0], [1.0, 1.5, float(np.float32(0.1)), 123456789.0]):
        names, _, _ = _answers({"problem_type": "regression", "numbers": numbers}, reader)
        assert names == [sample.label for sample in proof.samples] == ["1", "1.5", "0.1", "123456789"]
    with pytest.raises(DataError, match="'good', 'nan' are no numbers"):
        numbers_of(["1", "good", "nan"])


def test_labels_of_a_load_test_are_spelled_as_the_answers() -> None:
    wire = TextWire()
    row = {"id": 1, "text": "a", "label": "2.0", "offline": "2"}
    answer = wire.decode({"label": np.array([b"2.0"], dtype=object), "scores": np.ones(1)})
    sample = wire.sample(row, 1)
    assert (sample.label, sample.offline, answer) == ("2", "2", "2")


def test_perplexity_is_over_tokens_and_retention_falls_with_the_loss() -> None:
    sums = TokenSums(np.array([4.0, 9.0]), np.array([1.0, 2.0]), np.array([4.0, 6.0]))
    quality = token_quality(sums, 200, 0)
    assert quality["perplexity"]["value"] == pytest.approx(math.exp(13 / 10))
    assert quality["next_token_accuracy"]["value"] == pytest.approx(0.3)
    worse = TokenSums(sums.loss * 1.5, sums.right / 2, sums.tokens)
    kept = token_retention(sums, worse, 200, 0)
    assert kept["perplexity"]["value"] == pytest.approx(math.exp(-0.65))
    assert kept["next_token_accuracy"]["value"] == pytest.approx(0.5)


def test_the_unigram_floor_counts_train() -> None:
    train = Encoded([[0, 0, 1]], None, 0, 8, 0)
    held_out = batches(Encoded([[2, 0, 1]], None, 0, 8, 0), None, 1, length_bucketed=True, seed=None)
    found = unigram(train, held_out, vocabulary=3)  # counts 3, 2, 1 of 6
    assert found.loss[0] == pytest.approx(-math.log(3 / 6) - math.log(2 / 6))
    assert (found.right[0], found.tokens[0]) == (1.0, 2.0)


# --- slices -----------------------------------------------------------------------------------


def test_slices_hold_every_token_once(tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({str(n): n for n in range(9)} | {"<e>": 9}, unk_token="<e>"))
    words.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>", pad_token="<e>")
    encoded = slices(tokenizer, ["1 2 3", "4", "5 6 7 8"], 4)
    assert [token for row in encoded.ids for token in row] == [1, 2, 3, 9, 4, 9, 5, 6, 7, 8, 9]
    assert [len(row) for row in encoded.ids] == [4, 4, 3]
    assert [len(row) for row in slices(tokenizer, ["1 2 3", "4", "5 6"], 4).ids] == [4, 4]  # one token predicts nothing
    with pytest.raises(ModelError, match="end-of-text"):
        slices(PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<e>"), ["1"], 4)


# --- the whole line ---------------------------------------------------------------------------

COMMON: dict[str, Any] = {
    "schema_version": 1,
    "name": "tiny",
    "train": {"epochs": 2, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32"},
    "recover": {"epochs": 2, "batch_size": 8, "learning_rate": 2e-3, "precision": "fp32"},
    "target": {"ratio": "1.5x", "of": "blocks"},
    "evaluate": {"bootstrap": 100},
    "export": {"latency_repeats": 3, "latency_shapes": [{"batch": 1, "length": 12}]},
    "verify": {"users": 2, "seconds": 2, "warmup_seconds": 0.5, "min_requests": 5, "protocols": ["http"]},
}


def report_of(recipe: Recipe, runs: Path, out: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    results = run(recipe, runs, quiet)
    report = finish(recipe, results, out, out / "triton_models")
    return dict(report), {name: result.path for name, result in results.items()}


@pytest.mark.serving
def test_a_language_model_goes_the_whole_line(tmp_path: Path) -> None:
    texts = periodic_texts(80, 12)
    # One table: texts of digits, told apart by a marker in front, since near-duplicates are removed.
    rows = [json.dumps({"text": text}) for text in texts]
    (tmp_path / "texts.jsonl").write_text("\n".join(rows))
    model = AutoModelForCausalLM.from_pretrained(trained_folder())
    save(model, tmp_path / "llama")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path / "llama")
    tokenizer.eos_token = "3"
    tokenizer.save_pretrained(tmp_path / "llama")
    recipe = Recipe.model_validate({
        **COMMON,
        "task": {"kind": "causal_lm"},
        "data": {"source": {"kind": "table", "paths": [str(tmp_path / "texts.jsonl")]}, "labels": {"scheme": "none"},
                 "near_duplicate_threshold": 1.0, "calibration": 16},
        "model": {"kind": "pretrained", "source": str(tmp_path / "llama"), "max_length": 13},
        "gates": [{"metric": "retention.perplexity", "op": ">=", "value": 0.2}],
    })  # fmt: skip
    report, folders = report_of(recipe, tmp_path / "runs", tmp_path / "report")
    quality = report["quality"]
    assert quality["base"]["perplexity"]["value"] < quality["floors"]["unigram"]["perplexity"]["value"]
    assert quality["compressed"]["perplexity"]["value"] < quality["unrecovered"]["perplexity"]["value"]
    assert 0 < report["agreement"]["compressed"] <= 1
    assert report["parity"]["passed"]
    refused, empty = differences(report, recipe)
    assert (refused, set(empty) - {"environment.gpu"}) == ([], set()), "without a GPU there is no name of one"
    assert report["gates"][0]["value"] == report["retention"]["perplexity"]["value"]
    # Stock transformers loads the cut model: as many blocks as were kept, and the evaluated loss.
    smaller = AutoModelForCausalLM.from_pretrained(tmp_path / "report" / "model").eval()
    assert smaller.config.num_hidden_layers == 2
    assert "pipeline_tag: text-generation" in (tmp_path / "report" / "model" / "README.md").read_text()
    assert run_card(tmp_path / "report" / "model", "print(model.config.num_hidden_layers)").split()[-1] == "2"
    # The endpoint answers with the next token, as offline; what it is measured against is the uncut model's.
    served = report["serving"]["http"]["served"]
    assert served["matches_offline"] == 1.0
    assert served["accuracy"] == served["offline_accuracy"]
    # A race measures in batches that training fits into: the logits of a token are as many as the vocabulary.
    small = recipe.model_copy(update={"train": recipe.train.model_copy(update={"batch_size": 2})})
    teacher = Checkpoint(model, load_tokenizer(folders["train"] / "model"))
    recoverer = recoverer_of(small, folders["data"], teacher, quiet)
    assert max(len(batch) for batch in recoverer.validation) == 2
    page = (tmp_path / "report" / "report.html").read_text()
    assert "perplexity" in page
    assert "served agreement with the uncut model" in page
    assert "Answers that changed" in page
    assert "macro-F1" not in page


@pytest.mark.serving
def test_stars_are_predicted_and_served_as_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    words = ["awful", "poor", "fair", "good", "great"]
    rows = []
    for number in range(160):
        stars = number % 5 + 1
        text = " ".join([*[words[stars - 1]] * int(random.integers(2, 6)), f"item{number}", f"order{number * 7}"])
        # The numbers of the labels have one name, however they are written.
        spelled = (stars, float(stars), f"{stars}.0", f"{stars}")[number % 4]
        rows.append(json.dumps({"text": text, "stars": spelled}))
    (tmp_path / "reviews.jsonl").write_text("\n".join(rows))
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    model = tiny("bert", 3, vocab_size=64, pad_token_id=0, task=AutoModelForSequenceClassification)
    model.save_pretrained(tmp_path / "bert")
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(tmp_path / "bert")
    source = {"kind": "table", "paths": [str(tmp_path / "reviews.jsonl")], "columns": {"label": "stars"}}
    recipe = Recipe.model_validate({
        **COMMON,
        "task": {"kind": "regression"},
        "data": {"source": source, "labels": {"scheme": "column"}, "calibration": 20},
        "model": {"kind": "pretrained", "source": str(tmp_path / "bert"), "max_length": 16, "head": "new"},
        "train": {**COMMON["train"], "epochs": 20, "learning_rate": 5e-3, "patience": 20},
        "gates": [{"metric": "retention.spearman", "op": ">=", "value": 0.5}],
    })  # fmt: skip
    report, _ = report_of(recipe, tmp_path / "runs", tmp_path / "report")
    quality = report["quality"]
    assert quality["base"]["spearman"]["value"] > 0.8
    assert quality["base"]["mean_absolute_error"]["value"] < quality["floors"]["median"]["mean_absolute_error"]["value"]
    assert report["importance"]["methods"]["ablation"]["unit"] == "squared error"
    assert report["parity"]["passed"]
    refused, empty = differences(report, recipe)
    assert (refused, set(empty) - {"environment.gpu"}) == ([], set()), "without a GPU there is no name of one"
    assert "nearest number" in (tmp_path / "report" / "report.md").read_text()
    assert report["verdict"]["passed"]
    served = report["serving"]["http"]["served"]
    assert served["matches_offline"] == 1.0
    assert served["accuracy"] > 0.4  # of the nearest star
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "report" / "model")
    assert loaded.config.num_labels == 1
    card = ModelCard.load(tmp_path / "report" / "model" / "README.md")
    first = card.data.eval_results[0]
    assert (first.metric_type, first.metric_value) == (
        "mean_absolute_error", quality["compressed"]["mean_absolute_error"]["value"]
    )  # fmt: skip
    assert run_card(tmp_path / "report" / "model", "print(model.config.num_labels)").split()[-1] == "1"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["task={kind: causal_lm}"], "use scheme none for a language model"),
        (["task={kind: regression}", "data.labels.scheme=binary"], "needs numbers"),
        (["data.labels.scheme=none"], "only a language model needs no labels"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(change: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe(RECIPES / "amazon_2.5x.yaml", change)


def test_what_a_language_model_cannot_do_is_refused() -> None:
    base = {**COMMON, "task": {"kind": "causal_lm"}, "data": {"labels": {"scheme": "none"}},
            "model": {"kind": "pretrained", "source": "x"}}  # fmt: skip
    assert Recipe.model_validate(base).task.kind == "causal_lm"
    for change, said in (
        ({"score": {"methods": [{"method": "mutual_information"}]}}, "mutual_information"),
        ({"vocabulary": {"trim": True}}, "vocabulary.trim"),
        ({"export": {"int8": {}}}, "int8"),
        ({"model": {"kind": "config"}}, "pretrained"),
        ({"model": {"kind": "pretrained", "source": "x", "revision": "v2"}}, "model.revision"),
        ({"model": {"kind": "pretrained", "source": "x", "trust_remote_code": True}}, "model.trust_remote_code"),
    ):
        with pytest.raises(ValueError, match=said):
            Recipe.model_validate({**base, **change})


def test_tied_weights_of_a_language_model_stay_tied(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(trained_folder())
    smaller = remove_blocks(model, family_of(model), {1})
    smaller.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.lm_head.weight.data_ptr() == again.model.embed_tokens.weight.data_ptr()
