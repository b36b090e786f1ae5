"""The choice of a queue delay from figures; the measuring itself is in tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_repository import configs, small_checkpoint

from lwc.recipe import Package
from lwc.recipe_file import parse_recipe
from lwc.serving.delay import Figures, choose, set_delay
from lwc.serving.repository import build_repository
from lwc.stages import STAGES

RECIPE = """\
schema_version: 1
name: small
model: {kind: config, blocks: 4, hidden: 16, heads: 2}
target: {ratio: 2x, of: blocks}
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def test_most_requests_win_where_the_95th_percentile_allows() -> None:
    assert choose([Figures(0, 100, 5, 10), Figures(1000, 150, 6, 10.9), Figures(2000, 200, 7, 11.1)]).delay == 1000


def test_the_shortest_delay_wins_among_equals_in_any_order() -> None:
    figures = [Figures(2000, 102, 5, 10), Figures(500, 100, 5, 10), Figures(0, 96, 5, 10)]
    assert choose(figures).delay == choose(figures[::-1]).delay == 500


def test_a_delay_that_alone_is_slow_is_not_chosen_for_its_throughput() -> None:
    assert choose([Figures(0, 100, 5, 10), Figures(4000, 900, 9, 30)]).delay == 0


def test_a_delay_is_written_into_both_models_and_changes_nothing_else(checkpoint: Path, tmp_path: Path) -> None:
    build_repository(checkpoint / "model.onnx", checkpoint, tmp_path, Package(intra_op_threads=1), "r")
    before = configs(tmp_path)
    set_delay(tmp_path, 2000)
    for old, new in zip(before, configs(tmp_path), strict=True):
        assert new.dynamic_batching.max_queue_delay_microseconds == 2000
        old.dynamic_batching.max_queue_delay_microseconds = 2000
        assert old == new


def test_auto_packages_anew_for_another_machine_and_more_clients_alone() -> None:
    (stage,) = (stage for stage in STAGES if stage.name == "package")
    auto = "package: {queue_delay_microseconds: auto}\n"
    assert stage.external(parse_recipe(RECIPE, "r")) == {}
    needs = [stage.external(parse_recipe(f"{RECIPE}{auto}verify: {{users: {n}}}\n", "r")) for n in (4, 8)]
    assert [one["users"] for one in needs] == ["4", "8"]
    assert needs[0]["cpu"] == needs[1]["cpu"]


def test_until_it_is_measured_auto_is_the_default(checkpoint: Path, tmp_path: Path) -> None:
    build_repository(checkpoint / "model.onnx", checkpoint, tmp_path, Package(queue_delay_microseconds="auto"), "r")
    for config in configs(tmp_path):
        assert config.dynamic_batching.max_queue_delay_microseconds == Package().queue_delay_microseconds
