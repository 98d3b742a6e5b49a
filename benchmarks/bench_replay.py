"""What `logos replay` measures against what was: an upstream whose every token comes at a known time.

Three runs on loopback, the upstream in a process of its own: streams that begin one after the other until 200 run at
once, the same all at the same moment, and 500 requests a second. Errors are the client's figures minus those by the
upstream's clock; `- schedule` is against the 200 ms and 20 ms that the upstream aims at. `way there` is from sending a
request to its being seen, `way back` from writing the first token to its being received; where all begin at the same
moment the upstream itself is late, so that there only the way back has a limit.

Limits, at the median: 2 ms for TTFT and TPOT, 5 ms for the arrivals. They are aims at p99 as well, which an idle
machine of two cores meets; whatever else runs there delays both ends, so p99 alone fails nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.timed_upstream import FIRST_MS, TOKEN_MS
from logos.workload import clock
from logos.workload.client import Replay, Target
from logos.workload.exchanges import Exchange
from logos.workload.rows import WorkloadRow
from logos.workload.statistics import quantile

ERROR_MS_MAX = 2.0
LATENESS_MS_MAX = 5.0
STREAMS = 200
RATE_PER_S = 500


@dataclass(frozen=True, slots=True)
class Truth:
    """By the upstream's clock, in monotonic seconds."""

    arrived_s: float
    written_s: tuple[float, ...]

    @property
    def ttft_ms(self) -> float:
        return (self.written_s[0] - self.arrived_s) * 1000

    @property
    def tpot_ms(self) -> float:
        return (self.written_s[-1] - self.written_s[0]) * 1000 / (len(self.written_s) - 1)


@dataclass(frozen=True, slots=True)
class Seen:
    """One answered stream: what the client measured, and the truth."""

    ttft_ms: float
    tpot_ms: float
    way_there_ms: float
    way_back_ms: float
    truth: Truth

    @classmethod
    def of(cls, exchange: Exchange, began_s: float) -> Seen:
        assert exchange.ttft_ms is not None
        assert exchange.tpot_ms is not None
        assert exchange.first_token_ms is not None
        arrived_s, *written_s = (int(word) / 1e9 for word in exchange.text.split())
        way_there_ms = (arrived_s - began_s) * 1000 - exchange.sent_ms
        way_back_ms = exchange.first_token_ms - (written_s[0] - began_s) * 1000
        return cls(exchange.ttft_ms, exchange.tpot_ms, way_there_ms, way_back_ms, Truth(arrived_s, tuple(written_s)))


def rows(count: int, apart_ms: float, tokens: int) -> list[WorkloadRow]:
    body = {"model": "m", "messages": [{"role": "user", "content": "time"}], "max_tokens": tokens}
    return [WorkloadRow(f"r-{number}", number * apart_ms, body) for number in range(count)]


@contextlib.contextmanager
def upstream() -> Iterator[str]:
    """The address of a fresh one."""
    command = [sys.executable, "-m", "benchmarks.timed_upstream"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


def run(workload: list[WorkloadRow]) -> tuple[tuple[Exchange, ...], float]:
    """The exchanges, and when the run began in monotonic seconds."""
    with upstream() as address:
        replay = Replay(workload, Target(address, "key"))
        found = clock.run(_run(replay))
    failed = [each.error for each in found if not each.is_success]
    assert not failed, failed[0]
    return found, replay.began_s


async def _run(replay: Replay) -> tuple[Exchange, ...]:
    return (await replay.run(asyncio.Event())).exchanges


def line(name: str, values: list[float], limit_ms: float | None = None) -> bool:
    """Prints one error; False if the median of its size is beyond the limit."""
    ordered, sizes = sorted(values), sorted(abs(value) for value in values)
    middle, far = quantile(ordered, 0.5) or 0.0, quantile(sizes, 0.99) or 0.0
    holds = limit_ms is None or (quantile(sizes, 0.5) or 0.0) <= limit_ms
    told = "" if limit_ms is None else f"   limit {limit_ms:g}{'' if holds else '   MISSED'}"
    print(f"  {name:<28}{middle:>9.3f}{far:>9.3f}{sizes[-1]:>9.3f}{told}", flush=True)
    return holds


def spread_out(tokens: int) -> bool:
    """STREAMS streams, each beginning a bit later than the one before; the last begins when the first ends."""
    seen = streams("one after the other", (FIRST_MS + TOKEN_MS * tokens) / STREAMS, tokens)
    held = [
        line("TTFT - upstream's", [each.ttft_ms - each.truth.ttft_ms for each in seen], ERROR_MS_MAX),
        line("TPOT - upstream's", [each.tpot_ms - each.truth.tpot_ms for each in seen], ERROR_MS_MAX),
    ]
    return all(held)


def in_step(tokens: int) -> bool:
    """STREAMS streams that all begin at the same moment."""
    seen = streams("all at once", 0.0, tokens)
    line("TTFT - upstream's", [each.ttft_ms - each.truth.ttft_ms for each in seen])
    held = [
        line("way back", [each.way_back_ms for each in seen], ERROR_MS_MAX),
        line("TPOT - upstream's", [each.tpot_ms - each.truth.tpot_ms for each in seen], ERROR_MS_MAX),
    ]
    return all(held)


def streams(name: str, apart_ms: float, tokens: int) -> list[Seen]:
    """Runs them; prints what no limit is for."""
    exchanges, began_s = run(rows(STREAMS, apart_ms, tokens))
    seen = [Seen.of(each, began_s) for each in exchanges]
    at_once = max(sum(other.sent_ms <= each.sent_ms <= other.ended_ms for other in exchanges) for each in exchanges)
    print(f"{name}: {len(exchanges)} streams, {at_once} at once, {tokens} tokens each")
    print(f"  {'ms':<28}{'median':>9}{'p99':>9}{'max':>9}")
    line("TTFT - schedule", [each.ttft_ms - FIRST_MS for each in seen])
    line("TPOT - schedule", [each.tpot_ms - TOKEN_MS for each in seen])
    line("way there", [each.way_there_ms for each in seen])
    return seen


def arrivals(seconds: float) -> bool:
    """How late requests leave, as the client says and as the upstream sees it."""
    exchanges, began_s = run(rows(round(RATE_PER_S * seconds), 1000 / RATE_PER_S, 5))
    print(f"arrivals: {len(exchanges)} requests at {RATE_PER_S}/s")
    print(f"  {'ms':<28}{'median':>9}{'p99':>9}{'max':>9}")
    late = [each.lateness_ms for each in exchanges]
    seen = [each.lateness_ms + Seen.of(each, began_s).way_there_ms for each in exchanges]
    held = [
        line("late, says the client", late, LATENESS_MS_MAX),
        line("late, as the upstream saw", seen, LATENESS_MS_MAX),
    ]
    return all(held)


def main() -> int:
    """1 if a limit was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0, help="of arrivals")
    options = parser.parse_args()
    held = [spread_out(options.tokens), in_step(options.tokens), arrivals(options.seconds)]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
