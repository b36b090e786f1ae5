"""When requests are due in an open loop. Imports nothing but the standard library."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal

Arrivals = Literal["poisson", "constant"]


def arrival_times(rate: float, seconds: float, arrivals: Arrivals, seed: int) -> Iterator[float]:
    """Due times in s after the start of a window of ``seconds``, ascending, at ``rate`` requests/s.

    ``poisson`` draws exponential gaps of mean 1/rate: independent users, whose requests bunch up now and then, so
    that queues form well below the limit. ``constant`` spaces requests evenly. The same seed gives the same times.
    """
    if arrivals == "constant":
        number = 0
        while number / rate < seconds:
            yield number / rate
            number += 1
        return
    draw = random.Random(seed)
    at = draw.expovariate(rate)
    while at < seconds:
        yield at
        at += draw.expovariate(rate)
