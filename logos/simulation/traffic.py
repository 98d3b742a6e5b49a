"""Arrivals drawn straight from a description of traffic, without the texts that a workload file would need.

For simulations of many requests. How arrivals spread over time is the workload generator's rule; nothing is sent.
"""

from __future__ import annotations

import bisect
import itertools
from random import Random

from logos.domain.nouns import Mode, Priority
from logos.simulation.arrivals import Arrival
from logos.workload.generate import PROMPT_SPREAD, Traffic, arrival_times_s

PRIORITIES = (Priority.LOW, Priority.MID, Priority.HIGH)
SEGMENTS_PER_KIND = 1_000_000_000  # names of conversations begin after those of system prompts


def drawn(traffic: Traffic, *, keys: int = 1, teams: int = 0) -> list[Arrival]:
    """The arrivals of the traffic, which names its models, in order of time. Keys and teams are drawn evenly.

    Raises ValueError if the traffic names no model.
    """
    if not traffic.models:
        raise ValueError("traffic that is simulated without texts has to name its models")
    chance = Random(traffic.seed)
    starts = itertools.takewhile(lambda at: at < traffic.duration_s, arrival_times_s(traffic, chance))
    speaker = _Speaker(traffic, chance, keys, teams)
    found = [arrival for number, at in enumerate(starts, 1) for arrival in speaker.conversation(number, at)]
    return sorted(found, key=lambda each: each.at) if traffic.turns > 1 else found


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
            shared = (*system, (SEGMENTS_PER_KIND + number, said)) if traffic.turns > 1 else system
            prompt_tokens = said + (traffic.prefix_tokens if system else 0)
            found.append(
                Arrival(
                    f"r{number}.{turn}",
                    at,
                    models,
                    prompt_tokens,
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
