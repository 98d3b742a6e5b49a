"""Arrivals drawn straight from a description of traffic, without the texts that a workload file would need.

For simulations of many requests, and for the shipped worlds that bring their own traffic. How arrivals spread over time
is the workload generator's rule; nothing is sent here.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from statistics import NormalDist

from logos.domain.nouns import Mode, Priority
from logos.simulation.arrivals import Arrival
from logos.workload.generate import PROMPT_SPREAD, REQUESTS_MAX, Traffic, arrival_times_s

PRIORITIES = (Priority.LOW, Priority.MID, Priority.HIGH)
STEP_S_MIN = 0.001
WITHIN_MIN = 0.01  # of normal lengths that should be usable, for the others are drawn again
CONVERSATIONS_FROM = 1_000_000_000  # names of conversations begin after those of system prompts


@dataclass(frozen=True, slots=True)
class Ladder:
    """A Poisson process whose rate climbs and falls in steps, every request with the same system prompt.

    Lengths in tokens are normal, as (mean, standard deviation), cut off at 1 and at `tokens_max`. Raises ValueError
    for what cannot be.
    """

    models: tuple[str, ...]
    rates_per_s: tuple[float, ...]
    step_s: float
    duration_s: float
    prompt_tokens: tuple[float, float]
    output_tokens: tuple[float, float]
    prefix_tokens: int = 0
    tokens_max: int = 32_000

    def __post_init__(self) -> None:
        """Raises ValueError with what should be different."""
        if max(self.rates_per_s) * self.duration_s > REQUESTS_MAX:
            raise ValueError(f"that could be more than {REQUESTS_MAX} requests")
        if self.step_s < STEP_S_MIN:
            raise ValueError(f"a step should last at least {STEP_S_MIN} s")
        for name, normal in (("prompt_normal", self.prompt_tokens), ("output_normal", self.output_tokens)):
            if _share_within(normal, self.tokens_max) < WITHIN_MIN:
                raise ValueError(f"{name}: hardly any length would be from 1 to {self.tokens_max} tokens")


@dataclass(frozen=True, slots=True)
class Turns:
    """Everything is there at the start: one request for each model named, in this order."""

    models: tuple[str, ...]
    prompt_tokens: int
    output_tokens: int


Source = Traffic | Ladder | Turns


def drawn(source: Source, seed: int | None = None, *, keys: int = 1, teams: int = 0) -> list[Arrival]:
    """The arrivals of a source in order of time; `seed` goes before the traffic's own. Keys and teams are even.

    Raises ValueError for traffic that names no model.
    """
    if not source.models:
        raise ValueError("traffic that is simulated without texts has to name its models")
    match source:
        case Ladder():
            return list(_ladder(source, Random(seed), keys))
        case Turns():
            return [_turn(source, number, name) for number, name in enumerate(source.models, 1)]
    chance = Random(source.seed if seed is None else seed)
    starts = itertools.takewhile(lambda at: at < source.duration_s, arrival_times_s(source, chance))
    speaker = _Speaker(source, chance, keys, teams)
    found = [arrival for number, at in enumerate(starts, 1) for arrival in speaker.conversation(number, at)]
    return sorted(found, key=lambda each: each.at) if source.turns > 1 else found


def _turn(turns: Turns, number: int, name: str) -> Arrival:
    tokens = turns.output_tokens
    return Arrival(f"r{number}", 0.0, ((name, 0.0),), turns.prompt_tokens, tokens, output_tokens=tokens)


def _ladder(ladder: Ladder, chance: Random, keys: int) -> Iterator[Arrival]:
    """By thinning: arrivals at the highest rate, of which each step keeps its share (Lewis and Shedler, 1979)."""
    highest = max(ladder.rates_per_s)
    number = 0
    for at in itertools.accumulate(chance.expovariate(highest) for _ in itertools.count()):
        if at >= ladder.duration_s:
            return
        step = int(at / ladder.step_s) % len(ladder.rates_per_s)
        if chance.random() * highest >= ladder.rates_per_s[step]:
            continue
        number += 1
        prompt = ladder.prefix_tokens + _normal(chance, ladder.prompt_tokens, ladder.tokens_max)
        output = _normal(chance, ladder.output_tokens, ladder.tokens_max)
        shared = ((1, ladder.prefix_tokens),) if ladder.prefix_tokens else ()
        yield Arrival(
            f"r{number}",
            at,
            ((chance.choice(ladder.models), 0.0),),
            prompt,
            ladder.tokens_max,
            output_tokens=output,
            key_id=chance.randrange(keys) + 1,
            prefix=1 if shared else None,
            prefix_tokens=ladder.prefix_tokens,
            shared=shared,
        )


def _share_within(normal: tuple[float, float], most: int) -> float:
    """The share of draws that are, rounded, from 1 to `most`."""
    mean, deviation = normal
    if deviation == 0:
        return float(1 <= round(mean) <= most)
    lengths = NormalDist(mean, deviation)
    return lengths.cdf(most + 0.5) - lengths.cdf(0.5)


def _normal(chance: Random, normal: tuple[float, float], most: int) -> int:
    """Drawn until it is between the bounds."""
    while True:
        tokens = round(chance.gauss(*normal))
        if 1 <= tokens <= most:
            return tokens


class _Speaker:
    """Draws conversations."""

    def __init__(self, traffic: Traffic, chance: Random, keys: int, teams: int) -> None:
        self._traffic = traffic
        self._chance = chance
        self._keys = keys
        self._teams = teams
        self._models = tuple(((name, 0.0),) for name in traffic.models)
        self._model_ranks = _cumulated(len(traffic.models), traffic.skew)
        self._prefix_ranks = _cumulated(traffic.prefixes, 1.0)

    def conversation(self, number: int, begins_at: float) -> list[Arrival]:
        """One arrival for each turn that comes before the end; a turn repeats everything said before it."""
        traffic, chance = self._traffic, self._chance
        models = self._models[_picked(self._model_ranks, chance)]
        key_id = chance.randrange(self._keys) + 1
        team_id = key_id % self._teams + 1 if self._teams else None
        system = ((_picked(self._prefix_ranks, chance) + 1, traffic.prefix_tokens),) if traffic.prefixes else ()
        found: list[Arrival] = []
        at, said = begins_at, 0
        for turn in range(1, chance.randint(1, traffic.turns) + 1):
            if at >= traffic.duration_s:
                break
            said += max(1, round(traffic.prompt_tokens * chance.lognormvariate(0, PROMPT_SPREAD)))
            shared = (*system, (CONVERSATIONS_FROM + number, said)) if traffic.turns > 1 else system
            found.append(
                Arrival(
                    f"r{number}.{turn}",
                    at,
                    models,
                    said + (traffic.prefix_tokens if system else 0),
                    chance.randint(*traffic.output_tokens),
                    key_id=key_id,
                    team_id=team_id,
                    priority=chance.choices(PRIORITIES, traffic.priorities)[0],
                    mode=Mode.BATCH if chance.random() < traffic.batch_share else Mode.INTERACTIVE,
                    prefix=shared[-1][0] if shared else None,
                    prefix_tokens=sum(tokens for _, tokens in shared),
                    shared=shared,
                )
            )
            said += sum(traffic.output_tokens) // 4
            at += chance.expovariate(1 / traffic.think_s) if traffic.think_s else 0.0
        return found


def _cumulated(count: int, exponent: float) -> list[float]:
    """Sums of Zipf's weights of `count` things by rank."""
    return list(itertools.accumulate(1 / rank**exponent for rank in range(1, count + 1)))


def _picked(cumulated: list[float], chance: Random) -> int:
    """An index, as likely as its weight."""
    return bisect.bisect(cumulated, chance.random() * cumulated[-1])
