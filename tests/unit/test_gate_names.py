"""A gate on what no stage measures is told by `lwc validate`, not after the training."""

from __future__ import annotations

from typing import get_args

import pytest

from lwc.core.errors import RecipeError
from lwc.pipeline.stages import STAGES
from lwc.recipe.file import parse_recipe
from lwc.report.content_types import StageName
from lwc.report.gate_names import CHECKS, unmeasured, unreachable

RECIPE = """schema_version: 1
name: small
model: {kind: config, blocks: 2}
target: {ratio: 2, of: blocks}
gates:
  - {metric: retention.macro_f1, op: ">=", value: 0.9}
"""


def problems(metric: str, *overrides: str, extra: str = "") -> str:
    """What is told of a recipe with this gate on line 7; empty where it is accepted."""
    try:
        gate = f'  - {{metric: {metric}, op: ">=", value: 1{extra}}}\n'
        parse_recipe(RECIPE + gate, "small.yaml", overrides, CHECKS)
    except RecipeError as error:
        return error.message
    return ""


@pytest.mark.parametrize(
    ("metric", "meant"),
    [
        ("retention.acuracy", "did you mean retention.accuracy?"),
        ("parity.max_diff", "did you mean parity.max_abs_diff?"),
        ("serving.http.p95", "serving.http.latency_ms.p95"),
        ("accuracy", "did you mean retention.accuracy? It has an interval: with `at: low`"),
        ("retention", "did you mean retention.accuracy?"),
        ("accuracy_retention", "did you mean retention.accuracy?"),
        ("retention.acuracy.low", "did you mean retention.accuracy, with at: low?"),
        ("quality.accuracy", "did you mean quality.compressed.accuracy or served.quality.accuracy?"),
        ("quality.compressed.f1", "did you mean quality.compressed.macro_f1?"),
        ("f1", "did you mean retention.macro_f1?"),
        ("p95", "did you mean serving.http.latency_ms.p95"),
        ("serving.http.served.match_offline", "did you mean serving.http.served.matches_offline?"),
        ("latency.shapes.2.ratio", "latency.shapes.1.ratio"),
        ("wibble", "its sections are ratios, quality, retention"),
        ("wibble", "`lwc validate RECIPE --metrics` lists them all"),
        ("stages.trian.seconds", "did you mean stages.train.seconds"),
        ("quality.base.confusion.2.0", "did you mean quality.base.confusion."),
        ("serving.http.served.confusion.9.0", "did you mean serving.http.served.confusion."),
        ("importance.methods.fischer.seconds", "did you mean importance.methods.fisher.seconds"),
        ("importance.fused.scores.2", "did you mean importance.fused.scores.1"),
        ("importance.trust.stability.fused.resamples", "no stage of this recipe"),
        ("selection.params_afer", "did you mean selection.params_after?"),
        ("training.train.validation.acuracy", "did you mean training.train.validation.accuracy?"),
        ("data.quality.rows_usd", "did you mean data.quality.rows_used?"),
        ("export.int8.ratios.size", "did you mean export.ratios.size"),
        ("environment.core", "did you mean environment.cores?"),
        ("selection.strategy", "no stage of this recipe measures"),
        ("selection.kept.2", "did you mean selection.kept.1"),
        ("importance.kendall_tau.matrix.4.0", "did you mean importance.kendall_tau.matrix."),
        ("training.train.history.0.acuracy", "no stage of this recipe"),
        ("data.quality.splits.test.labels.good", "did you mean data.quality.splits.test.labels."),
        ("data.quality.splits.test.words.p90", "did you mean data.quality.splits.test.words."),
        ("serving.http.server.models.smal.queue_ms", "did you mean serving.http.server.models.small.queue_ms"),
    ],
)
def test_a_typo_in_a_metric_is_told_with_line_and_nearest_name(metric: str, meant: str) -> None:
    told = problems(metric)
    assert f"line 7: gates.1.metric: no stage of this recipe measures {metric!r}" in told
    assert meant in told


@pytest.mark.parametrize(
    ("metric", "at", "told"),
    [
        ("retention.accuracy", "low", None),
        ("quality.compressed.ece", "high", None),
        ("quality.compressed.accuracy", "low, relative_to: data.quality.splits.test.majority_share", None),
        ("serving.http.served.accuracy", "low", "1.at: serving.http.served.accuracy has no interval, only a value; "),
        (
            "serving.http.served.accuracy",
            "low",
            "served.quality.accuracy or served.retention.accuracy has one",
        ),
        ("ratios.latency", "high", "metrics of quality, retention, retention_unrecovered, served have one"),
        ("selection.kept.0", "low", "1.at: selection.kept.0 has no interval"),
        (
            "retention.accuracy.low",
            "low",
            "retention.accuracy.low is one number of an interval; with at: low, the metric",
        ),
        ("retention.acuracy", "low", "1.metric: no stage of this recipe measures"),
        ("quality.compressed.accuracy", "low, relative_to: quality.base.accuracy", "; judge retention.accuracy, which"),
        (
            "quality.base.accuracy",
            "low, relative_to: quality.floors.tfidf.accuracy",
            "1.relative_to: at: low relative to",
        ),
        ("quality.base.ece", "low, relative_to: quality.compressed.ece", "; leave out at, or give value as a number"),
        ("retention.accuracy", "lower", "did you mean 'low'?"),
    ],
)
def test_an_end_that_does_not_exist_or_decides_nothing_is_refused(metric: str, at: str, told: str | None) -> None:
    found = problems(metric, extra=f", at: {at}")
    if told is None:
        assert found == ""
    else:
        assert "1 problem\n" in found
        assert told in found


def test_an_end_is_a_bound() -> None:
    assert "at: low with op ==" in problems("retention.accuracy", "gates.1.op='=='", extra=", at: low")


def test_what_a_metric_is_relative_to_is_checked_too() -> None:
    told = problems("latency.shapes.0.compressed_ms", extra=", relative_to: latency.shapes.0.bas_ms")
    assert "gates.1.relative_to" in told
    assert "did you mean latency.shapes.0.base_ms?" in told


@pytest.mark.parametrize(
    ("metric", "makes_it"),
    [
        ("serving.grpc.error_rate", "verify.protocols=[http, grpc]"),
        ("serving.http.achieved_ratio", "verify.rate=20"),
        ("serving.http.limit.compressed.rate_rps", "verify.find_rate={max_p95_ms: 50}"),
        ("export.int8.test.agreement", "export.int8={}"),
        ("export.int8.retention.macro_f1.low", "export.int8={}"),
        ("importance.trust.correlation.before_recovery.fused", "score.trust={}"),
        ("training.recover.vocabulary.coverage_of_validation", "vocabulary.trim=true"),
        ("quality.base.confusion.4.4", "data.labels.scheme=five_class"),
        ("quality.base.confusion.9.9", "data.labels.scheme=column"),
        ("data.quality.splits.test.labels.good", "data.labels.scheme=column"),
        ("data.quality.splits.test.labels.good", "data.labels={scheme: column, names: [bad, good]}"),
        ("export.fp16.agreement", "export.fp16=true"),
        ("export.int8.validation.accuracy_int8", "export.int8={}"),
    ],
)
def test_what_is_measured_depends_on_the_recipe(metric: str, makes_it: str) -> None:
    assert "no stage of this recipe" in problems(metric, "verify.protocols=[http]")
    assert problems(metric, "verify.protocols=[http]", makes_it) == ""


@pytest.mark.parametrize(
    "metric",
    [
        "served.ratios.latency", "served.ratios.latency_eager", "served.retention.accuracy.low", "served.params.served",
        "served.quality.macro_f1", "served.latency.shapes.1.ratio_eager", "served.latency.waited",
        "retention.accuracy.low", "quality.floors.tfidf.macro_f1", "quality.compressed.confusion.0.1", "target.met",
        "latency.shapes.1.ratio", "training.recover.validation.macro_f1", "stages.train.seconds",
        "serving.http.server.mean_ms.queue", "data.quality.rows_used", "importance.fused.scores.1",
        "data.quality.rows_bad.anything", "training.train.history.0.macro_f1",
        "data.quality.splits.test.labels.negative", "data.quality.splits.test.words.p95",
        "serving.http.server.models.small_tokens.queue_ms",
    ],
)  # fmt: skip
def test_what_a_run_measures_is_accepted(metric: str) -> None:
    assert problems(metric) == ""


def test_each_task_has_metrics_of_its_own() -> None:
    tokens = ("task={kind: causal_lm}", "data.labels.scheme=none", "model={kind: pretrained, source: x}",
              "gates.0.metric=retention.perplexity")  # fmt: skip
    assert problems("quality.base.next_token_accuracy", *tokens) == ""
    assert "measures 'retention.accuracy'" in problems("retention.accuracy", *tokens)


def test_every_stage_of_the_line_has_a_time() -> None:
    assert list(get_args(StageName)) == [stage.name for stage in STAGES]


@pytest.mark.parametrize(
    ("metric", "value", "meant"),
    [
        ("retention.accuracy", "99", "did you mean 0.99?"),
        ("retention.accuracy", "1.02", None),  # recovery may end above the base
        ("quality.compressed.macro_f1.low", "85.5", "did you mean 0.855?"),
        ("serving.http.served.matches_offline", "100", "did you mean 1?"),
        ("serving.http.error_rate", "0.5", None),
        ("parity.label_agreement", "1", None),
        ("training.train.validation.accuracy", "2", "did you mean 0.02?"),
        ("training.train.validation.train_loss", "2", None),
        ("ratios.params", "99", None),
        ("quality.base.accuracy", "500", "is no value of"),
        ("quality.base.accuracy", "2, relative_to: quality.unrecovered.accuracy", None),
    ],
)
def test_a_share_is_no_percentage(metric: str, value: str, meant: str | None) -> None:
    gate = f'  - {{metric: {metric}, op: ">=", value: {value}}}\n'
    if meant is None:
        parse_recipe(RECIPE + gate, "small.yaml", (), [unmeasured, unreachable])
        return
    with pytest.raises(RecipeError) as caught:
        parse_recipe(RECIPE + gate, "small.yaml", (), [unmeasured, unreachable])
    assert "line 7: gates.1.value" in caught.value.message
    assert meant in caught.value.message
