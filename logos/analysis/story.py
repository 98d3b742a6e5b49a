"""The one shape that simulated runs and logs are brought into, and what is counted of it.

A story is two tables. `requests`, a row per request: at_s (it arrived), model, key, is_answered, wait_s (in the queue),
ttft_s (from arrival; NaN: there was none), predicted_ttft_s (likewise), slo_ttft_s (promised). `spans`, a row for each
while that an engine was something other than away: model, engine, phase, began_s, ended_s. Times in seconds since the
story began. Where the tables come from and how they are drawn is not known here.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import pandas as pd

REQUEST_COLUMNS = ("at_s", "model", "key", "is_answered", "wait_s", "ttft_s", "predicted_ttft_s", "slo_ttft_s")
SPAN_COLUMNS = ("model", "engine", "phase", "began_s", "ended_s")
KEPT_FROM_S = 0.001  # shorter spans are no spans
NO_MODEL = "none"  # in a log: the request ended before a model was chosen


class Phase(enum.StrEnum):
    """What an engine that is not away is doing."""

    COMING = "coming"  # loading or waking
    AWAKE = "awake"
    GOING = "going"  # falling asleep or stopping


@dataclass(frozen=True, slots=True, eq=False)
class Story:
    """What happened, by name: a policy, or the platform whose log it is."""

    name: str
    requests: pd.DataFrame
    spans: pd.DataFrame

    @property
    def models(self) -> tuple[str, ...]:
        """Names of models that were asked for or awake, in order of the alphabet."""
        return tuple(sorted({*self.requests.model, *self.spans.model}))

    @property
    def ends_s(self) -> float:
        """When the last request or span ended, as far as that is known."""
        requests = self.requests
        ends = requests.at_s + requests[["wait_s", "ttft_s"]].max(axis=1).fillna(0.0)
        return float(max(ends.max() if len(ends) else 0.0, self.spans.ended_s.max() if len(self.spans) else 0.0))


@dataclass(frozen=True, slots=True)
class Change:
    """One change of state of an engine, from when it was begun until it was over; a failure takes no time."""

    began_s: float
    ended_s: float
    engine: str
    model: str
    is_coming: bool
    is_awake: bool  # when it was over


def request_table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows by the names of REQUEST_COLUMNS, in order of arrival; None becomes NaN."""
    table = pd.DataFrame(rows, columns=list(REQUEST_COLUMNS))
    numbers = [name for name in REQUEST_COLUMNS if name.endswith("_s")]
    table = table.astype({**dict.fromkeys(numbers, float), "is_answered": bool, "model": object, "key": object})
    return table.sort_values("at_s", ignore_index=True)


def span_table(changes: Iterable[Change], ends_s: float) -> pd.DataFrame:
    """What engines were between their changes; who is awake at the end stays so until `ends_s`."""
    ordered = sorted(changes, key=attrgetter("engine", "ended_s", "began_s"))
    rows = [
        row
        for _, members in itertools.groupby(ordered, key=attrgetter("engine"))
        for row in _spans_of_one(list(members), ends_s)
        if row[4] - row[3] >= KEPT_FROM_S
    ]
    return pd.DataFrame(rows, columns=list(SPAN_COLUMNS)).sort_values(["began_s", "engine"], ignore_index=True)


def _spans_of_one(changes: Sequence[Change], ends_s: float) -> Iterator[tuple[str, str, str, float, float]]:
    beginnings = [each.began_s for each in changes[1:]] + [ends_s]
    for change, next_began_s in zip(changes, beginnings, strict=True):
        under_way = Phase.COMING if change.is_coming else Phase.GOING
        yield change.model, change.engine, under_way.value, change.began_s, change.ended_s
        if change.is_awake:
            yield change.model, change.engine, Phase.AWAKE.value, change.ended_s, next_began_s


def waiting(story: Story) -> tuple[list[float], list[int]]:
    """How many requests waited in the queue: the moments at which that changed, and the number from then on."""
    known = story.requests[story.requests.wait_s > 0]
    ends = (known.at_s + known.wait_s).tolist()
    steps = sorted([*((at, 1) for at in known.at_s.tolist()), *((at, -1) for at in ends)])
    return [at for at, _ in steps], list(itertools.accumulate(step for _, step in steps))


def summary(stories: Sequence[Story], slo_ttft_s: float | None = None) -> pd.DataFrame:
    """A row per story. Shares are over everything sent, times over what was answered, in seconds.

    In time is by `slo_ttft_s`, or where it is None by what each request was promised. `swaps` counts engines brought
    in, `swap_s` adds up what loading, waking, falling asleep and stopping took, `worst_wait_s` is the longest queueing,
    `model_ratio` and `key_ratio` are the highest mean TTFT of a model (a key) divided by the lowest: 1 is even, inf if
    one that was asked for (that asked) got no answer.
    """
    rows = [_summed_up(story, slo_ttft_s) for story in stories]
    return pd.DataFrame(rows, index=pd.Index([story.name for story in stories], name="story"))


def _summed_up(story: Story, slo_ttft_s: float | None) -> dict[str, float]:
    requests, spans = story.requests, story.spans
    ttft_s = answered(story).ttft_s
    moving = spans[spans.phase != Phase.AWAKE]
    return {
        "requests": len(requests),
        "answered": share(requests.is_answered),
        "in_time": share(in_time(requests, slo_ttft_s)),
        "ttft_mean_s": ttft_s.mean(),
        "ttft_p50_s": ttft_s.quantile(0.5),
        "ttft_p95_s": ttft_s.quantile(0.95),
        "worst_wait_s": requests.wait_s.max(),
        "model_ratio": _ratio(story, "model"),
        "key_ratio": _ratio(story, "key"),
        "swaps": int((spans.phase == Phase.COMING).sum()),
        "swap_s": float((moving.ended_s - moving.began_s).sum()),
    }


def answered(story: Story) -> pd.DataFrame:
    """Requests that were answered to the end and had a first token."""
    requests = story.requests
    return requests[requests.is_answered & requests.ttft_s.notna()]


def in_time(requests: pd.DataFrame, slo_ttft_s: float | None = None) -> pd.Series:
    """Whether each had its first token in time; what was not answered had not, what was promised nothing had."""
    slo = requests.slo_ttft_s.fillna(float("inf")) if slo_ttft_s is None else slo_ttft_s
    return requests.is_answered & (requests.ttft_s <= slo)


def mean_ttft_s(story: Story, by: str) -> pd.Series:
    """By `model` or by `key`, of what was answered."""
    return answered(story).groupby(by).ttft_s.mean()


def predicted(story: Story) -> pd.DataFrame:
    """What was answered and had been predicted. A prediction is the median: half of them should be exceeded."""
    known = answered(story)
    return known[known.predicted_ttft_s.notna()]


def share(is_so: pd.Series) -> float:
    """0 to 1; of nothing it is 1."""
    return float(is_so.mean()) if len(is_so) else 1.0


def _ratio(story: Story, by: str) -> float:
    means = mean_ttft_s(story, by)
    if not set(story.requests[by]) - {NO_MODEL} <= set(means.index):
        return float("inf")
    return float(means.max() / means.min()) if len(means) and means.min() > 0 else float("nan")
