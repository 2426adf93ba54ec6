"""When requests arrive."""

import random


def poisson_times(rng: random.Random, count: int, rate: float) -> list[float]:
    """Seconds from the start at which `count` requests arrive at random, `rate` a second on average; the first at 0."""
    now, times = 0.0, []
    for _ in range(count):
        times.append(now)
        now += rng.expovariate(rate)
    return times
