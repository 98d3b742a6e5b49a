"""Workloads made from a seed: when requests arrive, which models they ask for, how they talk to each other.

The same `Traffic` gives the same rows on every machine. No I/O, no clock; the only chance is the seed's.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from logos.domain.nouns import Mode, Priority
from logos.workload import prompts
from logos.workload.rows import TOKENS_MAX, WorkloadRow

REQUESTS_MAX = 1_000_000
WEIGHTS_MAX = 1e12
PROMPT_SPREAD = 0.6  # sigma of the log-normal length of prompts
DIURNAL_DEPTH = 0.9  # at night 10 % of the mean rate is left, at noon it is 190 %


class Arrivals(enum.StrEnum):
    """How requests are spread over time."""

    STEADY = "steady"  # evenly
    POISSON = "poisson"  # independent of each other
    BURSTY = "bursty"  # gaps from a gamma distribution: crowds, then nothing
    DIURNAL = "diurnal"  # Poisson with a rate that rises and falls once over the whole duration


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a workload is like. Raises ValueError for what cannot be.

    `models` may be empty: then the choice is left to the platform (classification). `skew` is Zipf's exponent over
    `models` in the order given; 0 is even. `turns` is the most turns of a conversation, whose later turns repeat the
    earlier ones; `prefixes` system prompts of `prefix_tokens` are shared by all conversations, the first one most.
    """

    arrivals: Arrivals = Arrivals.POISSON
    rate_per_s: float = 1.0
    duration_s: float = 60.0
    seed: int = 0
    models: tuple[str, ...] = ()
    skew: float = 0.0
    burstiness: float = 4.0  # squared coefficient of variation of the gaps; 1 is Poisson
    batch_share: float = 0.0
    priorities: tuple[float, float, float] = (0.0, 1.0, 0.0)  # weights of low, mid, high
    prompt_tokens: int = 60  # median of one turn
    output_tokens: tuple[int, int] = (100, 400)  # max_tokens, evenly between
    turns: int = 1
    think_s: float = 10.0  # mean time from one turn to the next, the answer included
    prefixes: int = 0
    prefix_tokens: int = 200

    def __post_init__(self) -> None:
        """Raises ValueError with what should be different."""
        _require(0 < self.rate_per_s <= 100_000, "the rate should be more than 0 and at most 100,000 requests/s")
        _require(0 < self.duration_s <= 31 * 86_400, "the duration should be more than 0 and at most 31 days")
        _require(self.rate_per_s * self.duration_s <= REQUESTS_MAX, f"that would be more than {REQUESTS_MAX} requests")
        _require(0 <= self.skew <= 10, "the skew should be from 0 to 10")
        _require(0 < self.burstiness <= 1000, "the burstiness should be more than 0 and at most 1000")
        _require(0 <= self.batch_share <= 1, "the batch share should be from 0 to 1")
        _require(min(self.priorities) >= 0 < sum(self.priorities), "one of the priorities' weights should be above 0")
        _require(sum(self.priorities) <= WEIGHTS_MAX, f"the priorities' weights should be at most {WEIGHTS_MAX:g}")
        low, high = self.output_tokens
        _require(1 <= low <= high, "the output tokens should be a range such as 100-400")
        _require(high <= TOKENS_MAX, f"the output tokens should be at most {TOKENS_MAX:,}")
        _require(1 <= self.prompt_tokens <= 1_000_000, "the prompt should have 1 to 1,000,000 tokens")
        _require(1 <= self.turns <= 100, "a conversation should have 1 to 100 turns")
        _require(0 <= self.think_s <= 86_400, "the time between turns should be from 0 s to a day")
        _require(0 <= self.prefixes <= 1000, "there should be 0 to 1000 shared prefixes")
        _require(0 <= self.prefix_tokens <= 1_000_000, "a prefix should have 0 to 1,000,000 tokens")

    @property
    def turns_mean(self) -> float:
        return (1 + self.turns) / 2


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def generate(traffic: Traffic) -> tuple[WorkloadRow, ...]:
    """The rows in order of arrival, ids `r-1`, `r-2`, ...; what would arrive after the duration is left out."""
    random = Random(traffic.seed)
    starts = itertools.takewhile(lambda at: at < traffic.duration_s, arrival_times_s(traffic, random))
    requests = [each for number, at in enumerate(starts, 1) for each in _conversation(traffic, random, number, at)]
    requests = sorted((each for each in requests if each[0] < traffic.duration_s), key=lambda each: each[0])
    return tuple(_row(traffic, random, number, *each) for number, each in enumerate(requests, 1))


def arrival_times_s(traffic: Traffic, random: Random) -> Iterator[float]:
    """When conversations begin, without end, so that with all their turns the rate of requests is the traffic's."""
    rate = traffic.rate_per_s / traffic.turns_mean
    match traffic.arrivals:
        case Arrivals.STEADY:
            return (number / rate for number in itertools.count())
        case Arrivals.POISSON:
            return itertools.accumulate(random.expovariate(rate) for _ in itertools.count())
        case Arrivals.BURSTY:
            # Gamma gaps of mean 1 / rate and squared coefficient of variation `burstiness`.
            shape, scale = 1 / traffic.burstiness, traffic.burstiness / rate
            return itertools.accumulate(random.gammavariate(shape, scale) for _ in itertools.count())
        case Arrivals.DIURNAL:
            return _diurnal_times_s(rate, traffic.duration_s, random)


def _diurnal_times_s(rate: float, day_s: float, random: Random) -> Iterator[float]:
    """A Poisson process whose rate follows a cosine, lowest at the start: by thinning (Lewis and Shedler, 1979)."""
    highest = rate * (1 + DIURNAL_DEPTH)
    for at in itertools.accumulate(random.expovariate(highest) for _ in itertools.count()):
        now = rate * (1 - DIURNAL_DEPTH * math.cos(2 * math.pi * at / day_s))
        if random.random() * highest < now:
            yield at


def _conversation(
    traffic: Traffic, random: Random, number: int, begins_s: float
) -> Iterator[tuple[float, list[dict[str, str]], str | None, dict[str, str]]]:
    """(arrival in s, messages, model, extra columns) of each turn; a turn repeats everything said before it."""
    model = _chosen_model(traffic, random)
    messages: list[dict[str, str]] = []
    if traffic.prefixes:
        prefix = random.choices(range(traffic.prefixes), _zipf(traffic.prefixes, 1.0))[0]
        messages.append({"role": "system", "content": prompts.system(prefix, traffic.prefix_tokens)})
    at = begins_s
    for turn in range(1, random.randint(1, traffic.turns) + 1):
        tokens = round(traffic.prompt_tokens * random.lognormvariate(0, PROMPT_SPREAD))
        messages.append({"role": "user", "content": prompts.task(random, tokens)})
        extra = {"conversation": f"c-{number}", "turn": str(turn)} if traffic.turns > 1 else {}
        yield at, list(messages), model, extra
        messages.append({"role": "assistant", "content": prompts.answer(random, sum(traffic.output_tokens) // 4)})
        at += random.expovariate(1 / traffic.think_s) if traffic.think_s else 0.0


def _chosen_model(traffic: Traffic, random: Random) -> str | None:
    if not traffic.models:
        return None
    return random.choices(traffic.models, _zipf(len(traffic.models), traffic.skew))[0]


def _zipf(count: int, exponent: float) -> list[float]:
    """Weights of `count` things by rank."""
    return [1 / rank**exponent for rank in range(1, count + 1)]


def _row(
    traffic: Traffic,
    random: Random,
    number: int,
    at_s: float,
    messages: list[dict[str, str]],
    model: str | None,
    extra: dict[str, str],
) -> WorkloadRow:
    body: dict[str, Any] = {} if model is None else {"model": model}
    body |= {"stream": True, "max_tokens": random.randint(*traffic.output_tokens), "messages": messages}
    return WorkloadRow(
        request_id=f"r-{number}",
        arrival_ms=round(at_s * 1000, 3),
        body=body,
        mode=Mode.BATCH if random.random() < traffic.batch_share else Mode.INTERACTIVE,
        priority=random.choices((Priority.LOW, Priority.MID, Priority.HIGH), traffic.priorities)[0],
        line=number + 1,
        extra=extra,
    )
