"""The choice of a queue delay from figures; the measuring itself is in tests/e2e."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from small_repository import configs

from lwc.pipeline.stages import STAGES
from lwc.recipe import Package
from lwc.recipe.file import parse_recipe
from lwc.serving.triton.repository import ModelFiles, build_repository
from lwc.serving.tune.delay import Window, choose, compare, set_delay
from lwc.tasks.text_endpoint import TextEndpoint

RECIPE = """\
schema_version: 1
name: small
model: {kind: config, blocks: 4, hidden: 16, heads: 2}
target: {ratio: 2x, of: blocks}
"""


def rounds_of(throughput: float, p95: float, noise: Sequence[float]) -> list[Window]:
    """A window a round; the machine's other load makes all delays of a round faster or slower."""
    return [Window(throughput * one, 5 / one, p95 / one) for one in noise]


LOAD = (1.0, 0.4, 2.0, 0.7, 1.5, 0.3, 1.1, 0.9)


def chosen(**delays: list[Window]) -> int:
    return choose(compare({int(name[1:]): windows for name, windows in delays.items()})).delay


def test_the_most_requests_win_where_the_95th_percentile_allows_whatever_the_load() -> None:
    figures = compare(
        {
            1000: rounds_of(100, 10, LOAD),
            0: rounds_of(95, 9, LOAD),
            2000: rounds_of(110, 10.9, LOAD),
            4000: rounds_of(150, 11.1, LOAD),
        }
    )
    assert choose(figures).delay == 2000
    two = figures[2]
    assert (two.gain, two.p95_ratio, two.wins) == (pytest.approx(1.1), pytest.approx(1.09), 1.0)
    assert two.throughput == pytest.approx(110 * 0.95)


def test_chance_leaves_the_first() -> None:
    """Twice better on the whole, but for the rounds that it lost."""
    lucky = rounds_of(200, 5, LOAD)
    lucky[:2] = rounds_of(99, 10, LOAD[:2])
    first = rounds_of(100, 10, LOAD)
    assert chosen(d1000=first, d2000=lucky) == 1000
    lucky[0] = Window(101, 5, 10)
    assert chosen(d1000=first, d2000=lucky) == 2000
    assert chosen(d1000=first) == 1000


def test_a_delay_is_written_into_the_model_that_clients_call_and_changes_nothing_else(
    checkpoint: Path, tmp_path: Path
) -> None:
    build_repository(
        TextEndpoint(), ModelFiles(checkpoint / "model.onnx", checkpoint), tmp_path, Package(intra_op_threads=1), "r"
    )
    before = configs(tmp_path)
    set_delay(tmp_path, 2000)
    for old, new in zip(before, configs(tmp_path), strict=True):
        if new.backend == "python":
            assert new.dynamic_batching.max_queue_delay_microseconds == 2000
            old.dynamic_batching.max_queue_delay_microseconds = 2000
        assert old == new


def test_a_measured_delay_packages_anew_for_another_machine_and_more_clients_alone() -> None:
    (stage,) = (stage for stage in STAGES if stage.name == "package")
    measured = "package: {measure_queue_delay: true}\n"
    assert not stage.external(parse_recipe(RECIPE, "r")).keys() & {"cpu", "users"}
    needs = [stage.external(parse_recipe(f"{RECIPE}{measured}verify: {{users: {n}}}\n", "r")) for n in (4, 8)]
    assert [one["users"] for one in needs] == ["4", "8"]
    assert needs[0]["cpu"] == needs[1]["cpu"]
