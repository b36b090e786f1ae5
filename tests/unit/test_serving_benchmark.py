"""The serving benchmark: how long an outage lasted, and which value of a row is held against its aim."""

from __future__ import annotations

import pytest
from serving_faults import Heard, back_after
from serving_table import row, table

from lwc.core.errors import ServingError


def request(sent: float, ended: float, answered: bool = True) -> Heard:
    return Heard(sent, ended, "great" if answered else None, None if answered else "refused", True)


BEFORE, LATE = request(9.0, 9.5), request(9.9, 10.1)  # LATE was computed before the kill and read after it
REFUSED, AGAIN = request(10.2, 10.3, answered=False), request(12.0, 12.5, answered=False)
BETWEEN, AFTER = request(11.0, 11.2), request(13.0, 13.5)


def test_an_outage_lasts_until_the_first_answer_after_the_last_refusal() -> None:
    assert back_after(10.0, [BEFORE, LATE, REFUSED, AFTER]) == pytest.approx(3.5)
    # One instance that lives answers for a while; the restart then refuses again.
    assert back_after(10.0, [BEFORE, REFUSED, BETWEEN, AGAIN, AFTER]) == pytest.approx(3.5)


def test_a_kill_that_hit_nothing_or_never_ended_is_no_figure() -> None:
    with pytest.raises(ServingError, match="hit no request"):
        back_after(10.0, [request(8.0, 8.1, answered=False), BEFORE, AFTER])
    with pytest.raises(ServingError, match="no answer came after the last refusal"):
        back_after(10.0, [BEFORE, LATE, REFUSED, AGAIN])


def test_a_row_is_judged_by_its_median_or_by_its_worst() -> None:
    assert row("x", [1.0, 2.0, 30.0], 10.0, "<=", "")["met"]
    worst = row("x", [1.0, 2.0, 30.0], 10.0, "<=", "", max)
    assert not worst["met"]
    assert not row("x", [], 10.0, "<=", "")["met"]
    assert "| x | 30.00 (1.00–30.00) | <= 10.00 | MISSED |" in table([worst])
