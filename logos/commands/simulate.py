"""`logos simulate`: a workload in a simulated world, under one policy or several; the figures beside a bound.

Worlds, workloads and figures are made in `logos.simulation`; here are the options, what is printed and what is written.
Nothing is written before everything has been run.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import difflib
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from logos.commands.errors import BadInput
from logos.commands.numbers import POSITIVE
from logos.domain.errors import InvalidDeclaration

if TYPE_CHECKING:
    from logos.scheduling.settings import SchedulerSettings
    from logos.simulation.arrivals import Arrival
    from logos.simulation.fault_files import Trouble
    from logos.simulation.kernel import Simulation
    from logos.simulation.run import Outcome, Run
    from logos.simulation.world import World

SEEDS_MAX = 100
REASONS_MAX = 3  # of unanswered requests that are printed for a run
TICKS = 50  # of the progress bar, for each run
COMPARED = ("ok", "slo_attainment", "ttft_s", "worst_wait_s")  # figures of a run without its faults
KINDS = ("steady", "poisson", "bursty", "diurnal")
COLUMNS = (
    "request_id", "model", "status", "engine_id", "tier", "key_id", "priority", "mode", "arrived_s", "dispatched_s",
    "first_token_s", "ended_s", "prompt_tokens", "output_tokens", "predicted_ttft_s", "ttft_s", "latency_s",
    "queue_wait_s", "slo_ttft_s", "attempts", "reason", "cost_micro_cents",
)  # fmt: skip
TRANSITION_COLUMNS = ("began_s", "ended_s", "node_id", "engine_id", "model", "before", "after", "reason")
HEADER = (
    f"{'policy':<16}{'seed':>5}{'ok':>7}{'in SLO':>8}{'TTFT p50':>10}{'p95':>8}{'mean':>8}{'total p50':>11}{'p95':>8}"
    f"{'worst wait':>12}{'swaps':>7}{'swap s':>8}{'fair':>6}{'GPU':>6}{'GPU s':>9}{'remote cost':>14}"
)


@click.command("simulate")
@click.argument("workload", required=False, metavar="[WORKLOAD.csv]")
@click.option("--cluster", required=True, metavar="FILE|NAME",
              help="a cluster file, or a shipped world such as contention, market or laptop")  # fmt: skip
@click.option("--policy", "policies", default="slo", show_default=True, metavar="NAME[,NAME...]",
              help="fcfs, utilization, ettft, slo, ettft-delayed, ollama, round-robin, weighted")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=1, show_default=True,
              help="of answer lengths, and of generated arrivals")  # fmt: skip
@click.option("--seeds", type=click.IntRange(1, SEEDS_MAX), default=1, show_default=True, metavar="N",
              help="run N seeds, from --seed on")  # fmt: skip
@click.option("--slo-ttft-ms", type=POSITIVE, default=None,
              help="what attainment is counted by  [default: each request's own SLO]")  # fmt: skip
@click.option("--plain", is_flag=True, help="leave out the workload's priorities and modes")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE",
              help="a setting of the scheduler; may be repeated")  # fmt: skip
@click.option("--faults", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="what goes wrong, and when: run with and without it, and print how long recovery takes")  # fmt: skip
@click.option("--search/--no-search", default=True, show_default=True,
              help="look for the best schedule with full knowledge of the future")  # fmt: skip
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="writes runs.json, and each run's requests and engines as CSV")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
def simulate(
    workload: str | None,
    cluster: str,
    policies: str,
    seed: int,
    seeds: int,
    slo_ttft_ms: float | None,
    plain: bool,
    changes: tuple[str, ...],
    faults: Path | None,
    search: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Run WORKLOAD.csv in a simulated world and print what would have happened.

    Instead of a file, WORKLOAD may say what to generate: poisson:rate=2,duration_s=600 (or steady, bursty, diurnal,
    with the keys of a cluster file's `traffic`). Without it the world's own traffic is used, if it has any.
    """
    from logos.simulation.cluster import read_world
    from logos.simulation.fault_files import read_faults
    from logos.simulation.run import SimulationFault
    from logos.simulation.systems import check_system

    names = [name.strip() for name in policies.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--policy names none")
    if len(set(names)) < len(names):
        raise click.UsageError("--policy names one twice")
    slo_s = None if slo_ttft_ms is None else slo_ttft_ms / 1000
    try:
        for name in names:
            check_system(name)
        settings = _settings(changes)
        world = read_world(cluster)
        troubles = () if faults is None else read_faults(faults, world)
        workloads = [_workload(workload, world, each, plain) for each in range(seed, seed + seeds)]
    except InvalidDeclaration as error:
        raise BadInput(error.message) from None
    try:
        runs = _runs(names, world, workloads, seed, settings, as_json, troubles)
        found = [_figures(run, slo_s) for run in runs]
        if troubles:
            unharmed = _runs(names, world, workloads, seed, settings, as_json)
            for number, run in enumerate(runs):
                found[number] |= _recovery(run, unharmed[number], troubles, slo_s)
        clairvoyant = _clairvoyant(world, workloads[0], seed, slo_s, as_json) if search else None
    except SimulationFault as fault:
        raise click.ClickException(f"the run in {world.name} was broken off: {fault}") from None
    bound = {"seed": seed, **_bound(world, workloads[0], seed, settings, found), "clairvoyant": clairvoyant}
    document = {"runs": found, "bound": bound}
    if output is not None:
        _write(output, document, runs)
    if as_json:
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print(document, world, output)


def _settings(changes: Sequence[str]) -> SchedulerSettings:
    """Defaults with what was changed. Raises InvalidDeclaration for what is no setting or no value of it."""
    from logos.scheduling.settings import SchedulerSettings

    defaults = dataclasses.asdict(SchedulerSettings())
    given: dict[str, Any] = {}
    for change in changes:
        name, _, text = change.partition("=")
        if name == "policy":
            raise InvalidDeclaration(f"--set {change}: the policy is what --policy says")
        if name in given:
            raise InvalidDeclaration(f"--set {change}: {name} is set twice")
        if name not in defaults:
            near = difflib.get_close_matches(name, defaults, 1, 0.0)[0]
            raise InvalidDeclaration(f"--set {change}: there is no such setting; the nearest is {near}")
        kind = type(defaults[name])
        try:
            given[name] = kind(text)
        except ValueError:
            raise InvalidDeclaration(f"--set {change}: {text!r} is no {kind.__name__}") from None
    return SchedulerSettings(**given)


def _workload(text: str | None, world: World, seed: int, plain: bool) -> list[Arrival]:
    """From a file, a description, or the world itself. Raises InvalidDeclaration, one line."""
    from logos.simulation.from_rows import arrivals
    from logos.simulation.traffic import drawn
    from logos.workload.files import read_workload

    if text is None:
        if world.source is None:
            raise InvalidDeclaration(f"the world {world.name} has no traffic of its own: name a WORKLOAD.csv")
        found = drawn(world.source, seed, keys=world.keys)
    elif text.partition(":")[0] in KINDS:
        found = _generated(text, world, seed)
    elif not Path(text).exists() and not text.endswith(".csv"):
        raise InvalidDeclaration(
            f"{text} is no file and no traffic to generate, as {KINDS[0]}:rate=2 ({', '.join(KINDS)})"
        )
    else:
        found = arrivals(read_workload(Path(text)), world, text, plain=plain)
    if not found:
        raise InvalidDeclaration("nothing arrives in this workload; give it a longer duration or a higher rate")
    return found


def _generated(text: str, world: World, seed: int) -> list[Arrival]:
    """`poisson:rate=2,duration_s=600`, for all models of the world."""
    from logos.documents import parse
    from logos.simulation.cluster_shapes import TrafficDeclared
    from logos.simulation.traffic import drawn

    kind, _, rest = text.partition(":")
    document: dict[str, Any] = {"arrivals": kind}
    for part in filter(None, rest.split(",")):
        name, _, value = map(str.strip, part.partition("="))
        if name in document:
            raise InvalidDeclaration(f"{text}: {name} is said twice")
        document[name] = _number(value)
    declared = parse(TrafficDeclared, document, text)
    try:
        source = declared.source(tuple(model.name for model in world.catalogue.models))
    except ValueError as error:
        raise InvalidDeclaration(f"{text}: {error}") from None
    return drawn(source, seed, keys=declared.keys)


def _number(text: str) -> object:
    """1, 0.5, 1e3 or 100-400; anything else stays text, about which the document's parser will complain."""
    low, _, high = text.partition("-")
    if low.isdigit() and high.isdigit():
        return [int(low), int(high)]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _runs(
    names: Sequence[str],
    world: World,
    workloads: Sequence[Sequence[Arrival]],
    seed: int,
    settings: SchedulerSettings,
    is_quiet: bool,
    troubles: Sequence[Trouble] = (),
) -> list[Run]:
    """On a terminal a bar shows how far simulated time is; elsewhere a line says what takes long."""
    from logos.simulation.systems import run_system

    todo = [(name, number) for name in names for number in range(len(workloads))]
    is_hidden = is_quiet or (len(todo) < 2 and not sys.stderr.isatty())
    bar: Any = click.progressbar(length=len(todo) * TICKS, label="simulating", hidden=is_hidden, file=sys.stderr)
    found: list[Run] = []
    with bar as shown:
        for name, number in todo:
            workload = workloads[number]
            events = [fault for trouble in troubles for fault in trouble.faults]
            ticks = [] if is_hidden else [Tick(workload[-1].at * n / TICKS, shown.update) for n in range(TICKS)]
            found.append(run_system(name, world, workload, seed + number, settings, [*events, *ticks]))
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """A moment of a run at which its progress is shown. It comes as a fault would, and does no harm."""

    at: float
    show: Callable[[int], None]

    def strike(self, simulation: Simulation) -> None:
        self.show(1)


def _figures(run: Run, slo_s: float | None) -> dict[str, Any]:
    from logos.simulation.figures import figures

    return figures(run, slo_s)


def _recovery(run: Run, unharmed: Run, troubles: Sequence[Trouble], slo_s: float | None) -> dict[str, Any]:
    """What a run with faults has beside its figures."""
    from logos.simulation.recovery import recovery_s

    return {
        "faults": [
            {
                "fault": each.name,
                "at_s": each.at,
                "recovery_s": recovery_s(run, unharmed, each.at, slo_s, lasts_s=each.over_after_s),
            }
            for each in troubles
        ],
        "without_faults": {name: _figures(unharmed, slo_s)[name] for name in COMPARED},
    }


def _bound(
    world: World, workload: Sequence[Arrival], seed: int, settings: SchedulerSettings, found: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What no schedule that answers everything can beat; None where no run of this seed did: it says nothing then."""
    from logos.simulation.bounds import lower_bound

    if any(run["seed"] == seed and _is_all_answered(run) for run in found):
        return lower_bound(world, workload, seed, hedges=settings.hedge_share > 0)
    return {"ttft_s": None, "latency_s": None}


def _clairvoyant(
    world: World, workload: Sequence[Arrival], seed: int, slo_s: float | None, is_quiet: bool
) -> dict[str, Any] | None:
    """The best schedule found, where it can be searched for."""
    from logos.simulation.clairvoyant import best_schedule, is_searchable

    if not is_quiet and sys.stderr.isatty() and is_searchable(world, workload):
        click.echo("searching for the best schedule (--no-search leaves that out)", err=True)
    found = best_schedule(world, workload, seed)
    return None if found is None else _figures(found.run, slo_s)


def _is_all_answered(run: dict[str, Any]) -> bool:
    return bool(run["ok"] == run["requests"])


# What is printed.


def _print(document: dict[str, Any], world: World, output: Path | None) -> None:
    runs, bound = document["runs"], document["bound"]
    currency = runs[0]["cost"]["currency"]
    money = "" if currency is None else f", cost in {currency}"
    click.echo(f"{world.name}: {runs[0]['requests']} requests, {world.gpus} GPUs; times in s{money}")
    click.echo(HEADER)
    for run in runs:
        click.echo(_line(run["policy"], run))
    for run in runs:
        for line in (*_unanswered(run), *_recovered(run)):
            click.echo(line)
    compared = [run for run in runs if run["seed"] == bound["seed"]]
    if bound["clairvoyant"] is not None:
        click.echo(_line("clairvoyant", bound["clairvoyant"]))
        best_s = bound["clairvoyant"]["ttft_s"]["mean"]
        for run in compared if best_s > 0 else ():
            click.echo(_beside_the_best(run, best_s))
    click.echo(_least(bound, compared, f" with seed {bound['seed']}" if len(compared) < len(runs) else ""))
    if output is not None:
        click.echo(f"wrote {output}")


def _unanswered(run: dict[str, Any]) -> Iterator[str]:
    """Why requests were not answered, the most frequent reasons of a run."""
    for each in run["unanswered"][:REASONS_MAX]:
        why = f": {each['reason']}" if each["reason"] else ""
        yield f"{run['policy']} seed {run['seed']}: {each['requests']} {each['status']}{why}"


def _recovered(run: dict[str, Any]) -> Iterator[str]:
    """How a run got over its faults; nothing for one that had none."""
    name = f"{run['policy']} seed {run['seed']}"
    for each in run.get("faults", ()):
        yield f"{name}: {each['fault']} at {each['at_s']:g} s: {_recovery_text(each['recovery_s'])}"
    if "faults" in run:
        before = run["without_faults"]
        shares = f"{run['slo_attainment']:.1%} in SLO, {before['slo_attainment']:.1%} without the faults"
        yield f"{name}: {run['ok']} answered, {before['ok']} without the faults; {shares}"


def _recovery_text(seconds: float | None) -> str:
    if seconds is None:
        return "no recovery seen before the workload ended"
    return "no later request fared worse" if seconds == 0 else f"recovered after {seconds:.1f} s"


def _beside_the_best(run: dict[str, Any], best_s: float) -> str:
    """Means are of the same requests only where all were answered."""
    if not _is_all_answered(run):
        return (
            f"{run['policy']}: {run['ok']} of {run['requests']} answered, not comparable with the clairvoyant schedule"
        )
    share = run["ttft_s"]["mean"] / best_s
    better = " (the search found none as good)" if share < 1 else ""
    return f"{run['policy']}: mean TTFT is {share:.2f} of the clairvoyant schedule's{better}"


def _least(bound: dict[str, Any], compared: Sequence[dict[str, Any]], where: str) -> str:
    """The bound is over everything sent: it holds for runs in which everything was answered."""
    if bound["ttft_s"] is None:
        answered = ", ".join(f"{run['policy']} {run['ok']} of {run['requests']}" for run in compared)
        return f"no bound{where}: times are of answered requests, and not all were answered ({answered})"
    least = "no schedule" if all(map(_is_all_answered, compared)) else "no schedule that answers every request"
    return (
        f"{least} is below{where}: TTFT mean {bound['ttft_s']['mean']:.2f}, p95 {bound['ttft_s']['p95']:.2f}; "
        f"total mean {bound['latency_s']['mean']:.2f}, p95 {bound['latency_s']['p95']:.2f}"
    )


def _line(name: str, run: dict[str, Any]) -> str:
    ttft, total = run["ttft_s"], run["latency_s"]
    return (
        f"{name:<16}{run['seed']:>5}{run['ok']:>7}{run['slo_attainment']:>8.1%}"
        f"{_cell(ttft['p50'], 10)}{_cell(ttft['p95'], 8)}{_cell(ttft['mean'], 8)}"
        f"{_cell(total['p50'], 11)}{_cell(total['p95'], 8)}{run['worst_wait_s']:>12.2f}{run['swaps']:>7}"
        f"{run['swap_seconds']:>8.0f}{_cell(run['fairness'], 6)}{run['gpu_use']:>6.2f}{run['gpu_seconds']:>9.1f}"
        f"{_spent(run['cost']):>14}"
    )


def _spent(cost: dict[str, Any]) -> str:
    """To the last micro-cent; a dash where nothing has a price."""
    from logos.billing.cost import format_cost
    from logos.domain.records import Charge

    return "-" if cost["currency"] is None else format_cost(Charge(cost["remote_micro_cents"], cost["currency"]))


def _cell(value: float | None, width: int) -> str:
    """A dash where there is nothing to tell."""
    return f"{'-':>{width}}" if value is None else f"{value:>{width}.2f}"


# What is written.


def _write(directory: Path, document: dict[str, Any], runs: Sequence[Run]) -> None:
    """Every file is whole or is not there: each is written beside its name, and all are named at the end."""
    texts = {"runs.json": json.dumps(document, indent=2, ensure_ascii=False) + "\n"}
    for run in runs:
        texts[f"{run.policy}-{run.seed}-requests.csv"] = _requests_csv(run)
        texts[f"{run.policy}-{run.seed}-engines.csv"] = _engines_csv(run)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (directory / f".{name}.part").write_text(text, encoding="utf-8")
        for name in texts:
            (directory / f".{name}.part").replace(directory / name)
    except OSError as error:
        for name in texts:
            with contextlib.suppress(OSError):
                (directory / f".{name}.part").unlink()
        raise click.ClickException(f"{directory} cannot be written: {error.strerror}") from None


def _requests_csv(run: Run) -> str:
    from logos.simulation.costs import cost_micro_cents

    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([*_request_row(each), cost_micro_cents(run, each)] for each in run.outcomes)
    return out.getvalue()


def _request_row(each: Outcome) -> list[Any]:
    arrival = each.arrival
    row = [
        arrival.request_id, each.model or arrival.models[0][0], each.status.value, each.engine_id, each.tier,
        arrival.key_id, arrival.priority.name.lower(), arrival.mode.value, arrival.at, each.dispatched_at,
        each.first_token_at, each.ended_at, arrival.prompt_tokens, each.output_tokens, each.predicted_ttft_s,
        each.ttft_s, each.latency_s, each.queue_wait_s, each.slo_ttft_s, each.attempts, each.reason,
    ]  # fmt: skip
    return [f"{value:.6f}" if isinstance(value, float) else value for value in row]


def _engines_csv(run: Run) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(TRANSITION_COLUMNS)
    for each in run.transitions:
        times = (f"{each.began_at:.6f}", f"{each.ended_at:.6f}")
        writer.writerow((*times, each.node_id, each.engine_id, each.model, each.before, each.after, each.reason))
    return out.getvalue()
