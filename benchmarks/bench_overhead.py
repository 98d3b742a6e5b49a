"""What the gateway adds: direct to an nginx upstream, nginx as a plain proxy, and Logos with everything on, in turn.

Logos checks the key, enforces requests and tokens per minute and concurrency (limits too high to be met), and logs
every request to Postgres; with --price it charges them, too. Then the same for streams. Aims, on 2 cores: at 32
connections 1,500 requests/s and no error; at 1 connection 1.2 ms added at the median; streamed 2 ms added to the first
token, 0.35 ms to a chunk at 1 stream and 0.6 ms at 64. What is reached depends on the machine and on what else runs
there, so aims are printed beside and only errors and lost records make this fail (with --strict missed aims, too).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import Peers, Run, missing_tools, running_peers, wrk
from tests.support.logos_up import Platform

MODEL = "bench"
PATH = "/v1/chat/completions"
LIMITS = {"requests_per_minute": 1_000_000_000, "tokens_per_minute": 1_500_000_000, "concurrent": 100_000}
CONNECTIONS = (32, 1)
CHUNKS = 100
STREAMS = ((1, False), (64, False), (64, True))  # how many, and whether their starts are spread
AIM_REQUESTS_PER_S = 1500.0
AIM_ADDED_MS = 1.2
AIM_FIRST_MS = 2.0
AIM_CHUNK_MS = {1: 0.35, 64: 0.6}


@dataclass(slots=True)
class Report:
    """Lines of the summary, and what went wrong."""

    missed: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def aim(self, what: str, reached: float, aim: float, *, at_least: bool = False) -> str:
        met = reached >= aim if at_least else reached <= aim
        if not met:
            self.missed.append(what)
        verdict = "met" if met else "MISSED"
        return f"  aim: {what} {'>=' if at_least else '<='} {aim:g}, reached {reached:.2f}: {verdict}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, ["-" * width for width in widths], *rows):
        first, *others = zip(row, widths, strict=True)
        cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


# ---------------------------------------------------------------------- whole answers


def measure_whole(
    targets: dict[str, str], key: str, connections: int, seconds: float, rounds: int, directory: Path
) -> dict[str, list[Run]]:
    """Rounds of every target in turn, after a short one of each to warm up."""
    for url in targets.values():
        wrk(url, key, MODEL, connections, 1, directory)
    found: dict[str, list[Run]] = {name: [] for name in targets}
    for _ in range(rounds):
        for name, url in targets.items():
            found[name].append(wrk(url, key, MODEL, connections, seconds, directory))
    return found


def report_whole(found: dict[str, list[Run]], connections: int, report: Report) -> None:
    middle = {
        name: (
            statistics.median(run.requests_per_s for run in runs),
            statistics.median(run.p50_ms for run in runs),
            statistics.median(run.p99_ms for run in runs),
            sum(run.errors for run in runs),
        )
        for name, runs in found.items()
    }
    direct, proxy, logos = (middle[name] for name in ("direct", "nginx", "logos"))
    rows = [
        [
            name,
            f"{rate:,.0f}",
            f"{p50:.2f}",
            f"{p99:.2f}",
            f"{p50 - direct[1]:+.2f}",
            str(errors),
            f"{rate / direct[0]:.3f}",
            f"{rate / proxy[0]:.3f}",
        ]
        for name, (rate, p50, p99, errors) in middle.items()
    ]
    print(f"\n{connections} connections, whole answers of 354 bytes; median of {len(found['logos'])} rounds")
    head = ["", "requests/s", "p50 ms", "p99 ms", "added p50 ms", "errors", "of direct", "of nginx"]
    print(table(head, rows))
    if connections == 1:
        print(report.aim("ms added at 1 connection", logos[1] - direct[1], AIM_ADDED_MS))
    else:
        print(report.aim(f"requests/s at {connections}", logos[0], AIM_REQUESTS_PER_S, at_least=True))
    if logos[3]:
        report.failures.append(f"{logos[3]} errors at {connections} connections")


# ---------------------------------------------------------------------- streams


def stream_once(url: str, key: str, streams: int, spread: bool, chunks: int) -> dict[str, Any]:
    """One wave of streams, measured by a client in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.streaming", "client", "--url", url, "--model", "bench-stream"]
    command += ["--header", f"Authorization: Bearer {key}", "--streams", str(streams), "--chunks", str(chunks)]
    done = subprocess.run([*command, *(["--spread"] if spread else [])], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure_streams(targets: dict[str, str], key: str, streams: int, spread: bool, rounds: int, report: Report) -> int:
    """Waves of streams to every target in turn. Returns how many chunks came through Logos."""
    firsts: dict[str, list[float]] = {name: [] for name in targets}
    lags: dict[str, list[float]] = {name: [] for name in targets}
    broken = dict.fromkeys(targets, 0)
    for url in targets.values():
        stream_once(url, key, streams, spread, 10)
    chunks = CHUNKS // 2 if streams == 1 else CHUNKS * 2 if spread else CHUNKS
    for _ in range(rounds * (3 if streams == 1 else 1)):
        for name, url in targets.items():
            seen = stream_once(url, key, streams, spread, chunks)
            firsts[name] += seen["first_s"]
            lags[name] += seen["lags_s"]
            broken[name] += seen["broken"]
    figures = {name: [*_ms(firsts[name]), *_ms(lags[name])] for name in targets}
    direct = figures["direct"]
    rows = []
    for name, figure in figures.items():
        added = [f"{mine - theirs:+.2f}" for mine, theirs in zip(figure, direct, strict=True)]
        cells = [text for pair in zip((f"{value:.2f}" for value in figure), added, strict=True) for text in pair]
        rows.append([name, *cells, str(broken[name])])
    how = "" if streams == 1 else ", starts spread" if spread else ", started together"
    print(f"\n{streams} streams of 50 chunks/s{how}; ms, and ms added over direct")
    head = ["", "first p50", "added", "first p99", "added", "chunk p50", "added", "chunk p99", "added", "broken"]
    print(table(head, rows))
    first, chunk = figures["logos"][0] - direct[0], figures["logos"][2] - direct[2]
    print(report.aim(f"ms to first token, {streams} streams{how}", first, AIM_FIRST_MS))
    print(report.aim(f"ms to a chunk, {streams} streams{how}", chunk, AIM_CHUNK_MS[streams]))
    if broken["logos"]:
        report.failures.append(f"{broken['logos']} of the streams broke ({streams} streams{how})")
    return len(lags["logos"]) + len(firsts["logos"])


def _ms(seconds: list[float]) -> tuple[float, float]:
    """Median and p99 in ms."""
    if len(seconds) < 2:
        return float("nan"), float("nan")
    return statistics.median(seconds) * 1000, statistics.quantiles(seconds, n=100)[98] * 1000


# ---------------------------------------------------------------------- where the time goes


@contextmanager
def spending(platform: Platform, peers: Peers, what: str) -> Iterator[list[int]]:
    """Prints, for what runs inside, the CPU that each group of processes used and the gateway's share of each step.

    If the list that it gives has numbers in it afterwards, they are chunks relayed, and CPU is divided by them.
    """
    chunks: list[int] = []
    requests, steps = platform.metric("logos_requests_total"), platform.metric_by("logos_step_seconds_total", "step")
    used, peers_used, began = platform.cpu_s(), peers.cpu_s(), time.monotonic()
    yield chunks
    elapsed_s = time.monotonic() - began
    time.sleep(2.5)  # gateways push their figures every two seconds
    count = platform.metric("logos_requests_total") - requests
    units, unit = (sum(chunks), "chunk") if chunks else (count, "request")
    deltas = {**_delta(platform.cpu_s(), used), **_delta(peers.cpu_s(), peers_used)}
    rows = [
        [name, f"{spent:.2f}", f"{spent / elapsed_s * 100:.0f} %", f"{spent / units * 1e6:,.0f}" if units else "-"]
        for name, spent in sorted(deltas.items(), key=lambda item: -item[1])
        if spent >= 0.05
    ]
    print(f"\nCPU by process group, {what}: {elapsed_s:.0f} s, {units:,.0f} {unit}s through Logos")
    print(table(["", "seconds", "of a core", f"us per {unit}"], rows))
    spent = _delta(platform.metric_by("logos_step_seconds_total", "step"), steps)
    # Of a stream, relaying is mostly waiting for the next chunk, too.
    waiting = {"upstream", "relay"} if chunks else {"upstream"}
    whole = sum(seconds for step, seconds in spent.items() if step not in waiting)
    if count and whole:
        rows = [
            [step, f"{seconds / count * 1e6:,.0f}", "-" if step in waiting else f"{seconds / whole * 100:.0f} %"]
            for step, seconds in spent.items()
        ]
        print("\ntime of a request inside a gateway, by step (waiting for the upstream has no share)")
        print(table(["step", "us", "share"], rows))


def _delta(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: value - before.get(name, 0.0) for name, value in after.items()}


# ---------------------------------------------------------------------- the run


def declare(platform: Platform, peers: Peers, *, priced: bool) -> str:
    """The world of the benchmark. Returns the key."""
    platform.apply(
        {
            "providers": [
                {"name": "nginx", "base_url": f"{peers.upstream_url}/v1", "privacy": "LOCAL"},
                {"name": "streaming", "base_url": f"{peers.streaming_url}/v1", "privacy": "LOCAL"},
            ],
            "models": [
                {"name": MODEL, "endpoints": [{"provider": "nginx", "max_parallel": 1024}]},
                {"name": "bench-stream", "endpoints": [{"provider": "streaming", "max_parallel": 1024}]},
            ],
            "prices": [{"model": MODEL, "currency": "EUR", "per_million": {"prompt": 1, "completion": 2}}]
            if priced
            else [],
        }
    )
    return platform.create_key("bench", limits=LIMITS)


def check_records(platform: Platform, report: Report) -> None:
    """Every request that ended must be a row."""
    platform.wait_until_settled(60)
    ended, rows = platform.metric("logos_requests_total"), platform.value("SELECT count(*) FROM log_entry")
    print(f"\nrecords: {ended:,.0f} requests ended, {rows:,} rows in Postgres")
    if ended != rows:
        report.failures.append(f"{ended:.0f} requests but {rows} rows")


def measure(platform: Platform, peers: Peers, given: argparse.Namespace, directory: Path, report: Report) -> None:
    """Every part that was asked for."""
    key = declare(platform, peers, priced=given.price)
    whole = {"direct": peers.upstream_url, "nginx": peers.proxy_url, "logos": platform.base_url}
    streams = {"direct": peers.streaming_url, "nginx": f"{peers.proxy_url}/streams", "logos": platform.base_url}
    for connections in CONNECTIONS if "whole" in given.parts else ():
        with spending(platform, peers, f"{connections} connections"):
            urls = {name: url + PATH for name, url in whole.items()}
            found = measure_whole(urls, key, connections, given.seconds, given.rounds, directory)
        report_whole(found, connections, report)
    for count, spread in STREAMS if "streams" in given.parts else ():
        with spending(platform, peers, f"{count} streams") as chunks:
            urls = {name: url + PATH for name, url in streams.items()}
            chunks.append(measure_streams(urls, key, count, spread, given.rounds, report))


def run(given: argparse.Namespace) -> int:
    report = Report()
    config = {"gateway": {"replicas_min": given.replicas, "replicas_max": given.replicas}, "nodes": []}
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        running_peers(Path(name)) as peers,
        Platform(config) as platform,
    ):
        print(f"platform ready after {platform.ready_after_s:.1f} s, {given.replicas} replicas")
        measure(platform, peers, given, Path(name), report)
        check_records(platform, report)
    for failure in report.failures:
        print(f"FAILED: {failure}")
    if report.missed:
        print(f"aims missed: {'; '.join(report.missed)}")
    return 1 if report.failures or (given.strict and report.missed) else 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_overhead", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one run of wrk")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--price", action="store_true", help="charge the requests, too")
    parser.add_argument("--strict", action="store_true", help="exit with 1 when an aim is missed")
    parser.add_argument("--parts", nargs="+", choices=("whole", "streams"), default=("whole", "streams"))
    given = parser.parse_args(arguments)
    if lacking := missing_tools():
        print(f"skipped: {lacking}")
        return 0
    return run(given)


if __name__ == "__main__":
    sys.exit(main())
