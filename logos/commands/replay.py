"""`logos replay`: a workload sent to a platform, its summary printed, its details and pictures written; runs compared.

How requests are sent, counted and drawn is in `logos.workload`; here are the options and what is printed.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from logos.commands.errors import BadInput
from logos.commands.numbers import POSITIVE
from logos.domain.errors import InvalidWorkload

if TYPE_CHECKING:
    from logos.workload.compare import Difference
    from logos.workload.exchanges import Run
    from logos.workload.replaying import Report
    from logos.workload.summary import Metric

API_BASE = "http://127.0.0.1:8080"
RESULTS = Path("replay-results")
LATENESS_MS_MAX = 5.0
ERRORS_SHOWN = 5
# Rows of the printed table, each with these statistics of the summary as columns; the file has all of them.
PRINTED_TIMES = ("ttft", "tpot", "inter_token", "total_latency", "queue_wait", "predicted_ttft", "server_ttft")
PRINTED_STATISTICS = ("avg", "p50", "p95", "p99")


@click.command("replay")
@click.argument("workload", required=False, type=click.Path(dir_okay=False, path_type=Path), metavar="[WORKLOAD.csv]")
@click.option("--workload", "named", type=click.Path(dir_okay=False, path_type=Path), hidden=True)
@click.option("--api-base", envvar="LOGOS_API_BASE", default=API_BASE, show_default=True, metavar="URL")
@click.option("--logos-key", envvar="LOGOS_KEY", default=None, metavar="KEY", help="or LOGOS_KEY")
@click.option("--latency-slo-ms", type=POSITIVE, default=10_000.0, show_default=True,
              help="whole answer within so long: what attainment is counted by")  # fmt: skip
@click.option("--declare-slo", is_flag=True, help="also tell the server, which then schedules for it")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.csv",
              help="writes FILE_summary.csv, FILE_detailed.csv, FILE_*.png  [default: in replay-results/]")  # fmt: skip
@click.option("--speed", type=POSITIVE, default=1.0, show_default=True,
              help="divides all arrival offsets: 10 replays ten minutes in one")  # fmt: skip
@click.option("--timeout-s", type=POSITIVE, default=120.0, show_default=True,
              help="a request from which no byte comes for so long has failed")  # fmt: skip
@click.option("--compare", nargs=2, type=click.Path(path_type=Path), metavar="A B",
              help="send nothing; print how the earlier results B differ from A")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
def replay(
    workload: Path | None,
    named: Path | None,
    api_base: str,
    logos_key: str | None,
    latency_slo_ms: float,
    declare_slo: bool,
    output: Path | None,
    speed: float,
    timeout_s: float,
    compare: tuple[Path, Path] | None,
    as_json: bool,
) -> int:
    """Send the requests of WORKLOAD.csv at their times and measure; or compare two earlier runs.

    Exit code 1 if the run was broken off or nothing was answered; what there is is written all the same.
    """
    if compare:
        return _compare(*compare, as_json)
    file = workload or named
    if file is None:
        raise click.UsageError("Missing argument 'WORKLOAD.csv'")
    if logos_key is None:
        raise click.UsageError("no key: give --logos-key or set LOGOS_KEY")
    from logos.workload.client import Target

    target = Target(
        api_base, logos_key, slo_ms=latency_slo_ms, timeout_s=timeout_s, speed=speed, declare_slo=declare_slo
    )
    return _replay(file, target, output or _default_output(file), as_json)


def _default_output(workload: Path) -> Path:
    return RESULTS / f"{workload.stem}_{dt.datetime.now(dt.UTC):%Y%m%d_%H%M%S}.csv"


def _replay(file: Path, target: Any, output: Path, as_json: bool) -> int:
    from logos.workload.files import read_workload
    from logos.workload.replaying import replay as replayed

    _check(target)
    try:
        rows = read_workload(file)
    except InvalidWorkload as error:
        raise BadInput(error.message) from None
    try:
        report = replayed(rows, target, output)
    except OSError as error:
        raise click.ClickException(f"the results cannot be written: {error}") from None
    _print_report(report, as_json)
    return 0 if report.run.is_complete and any(each.is_success for each in report.run.exchanges) else 1


def _check(target: Any) -> None:
    """Raises BadInput for an address or key that no request could be sent with."""
    from yarl import URL

    try:
        url = URL(target.root)
        fits = url.scheme in {"http", "https"} and url.host is not None
    except ValueError:
        fits = False
    if not fits:
        raise BadInput("give --api-base like http://HOST:PORT")
    if not target.key.isascii() or not target.key.isprintable() or not target.key:
        raise BadInput("that is no key: --logos-key takes printable ASCII characters")


def _print_report(report: Report, as_json: bool) -> None:
    run = report.run
    if as_json:
        metrics = {metric.name: metric.value for metric in report.metrics}
        document = {"metrics": metrics, "files": [str(path) for path in report.files], "notes": list(run.notes)}
        click.echo(json.dumps(document, indent=2))
        return
    values = {metric.name: metric for metric in report.metrics}
    click.echo(_headline(values))
    for line in _table(values):
        click.echo(line)
    for line in (*_errors(run), *_warnings(run, values)):
        click.echo(line, err=True)
    for path in report.files:
        click.echo(f"wrote {path}")


def _headline(values: dict[str, Metric]) -> str:
    answered, total = values["successful_requests"].value, values["total_requests"].value
    attained, slo = values["slo_attainment_rate"].value, values["latency_slo"].value
    share = "-" if attained is None else f"{attained:.1%}"
    return f"{answered:.0f} of {total:.0f} answered; {share} of all sent within {slo:g} ms"


def _table(values: dict[str, Metric]) -> list[str]:
    lines = [f"{'ms':<16}" + "".join(f"{name:>12}" for name in PRINTED_STATISTICS)]
    for time in PRINTED_TIMES:
        found = [values.get(f"{statistic}_{time}") for statistic in PRINTED_STATISTICS]
        cells = ["" if each is None or each.value is None else f"{each.value:.1f}" for each in found]
        if any(cells):
            lines.append(f"{time:<16}" + "".join(f"{cell:>12}" for cell in cells))
    return lines


def _errors(run: Run) -> list[str]:
    """The most frequent reasons of failure."""
    from collections import Counter

    counts = Counter(each.error for each in run.exchanges if each.error is not None)
    return [f"{count} times: {error}" for error, count in counts.most_common(ERRORS_SHOWN)]


def _warnings(run: Run, values: dict[str, Metric]) -> list[str]:
    found = list(run.notes)
    if not run.is_complete:
        found.append(f"incomplete: the run was broken off, {run.not_sent} of {run.rows} requests were not sent")
    late = values["p99_lateness"].value
    if late is not None and late > LATENESS_MS_MAX:
        found.append(f"this client was late: 1 % of the requests left {late:.0f} ms or more after their time")
    return [f"note: {each}" for each in found]


def _compare(a: Path, b: Path, as_json: bool) -> int:
    from logos.workload.compare import compare
    from logos.workload.results import read_details

    try:
        differences = compare(read_details(a), read_details(b))
    except (InvalidWorkload, ValueError, KeyError) as error:
        raise BadInput(getattr(error, "message", f"the results cannot be compared: {error}")) from None
    if as_json:
        click.echo(json.dumps([_shown(each) for each in differences], indent=2))
        return 0
    click.echo(f"{'':<22}{'A':>11}{'B':>11}{'B - A':>11}   95 % interval")
    for line in _difference_lines(differences):
        click.echo(line)
    return 0


def _shown(each: Difference) -> dict[str, Any]:
    fields = ("metric", "unit", "a", "b", "change", "low", "high", "is_clear", "requests")
    return {name: getattr(each, name) for name in fields}


def _difference_lines(differences: Sequence[Difference]) -> list[str]:
    lines = []
    for each in differences:
        digits = 3 if each.unit == "ratio" else 1
        cells = "".join(f"{value:>11.{digits}f}" for value in (each.a, each.b, each.change))
        mark = "" if each.is_clear else "   within chance"
        lines.append(f"{each.metric:<22}{cells}   {each.low:+.{digits}f} to {each.high:+.{digits}f} {each.unit}{mark}")
    return lines
