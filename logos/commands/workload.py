"""`logos workload generate`: a workload file from a seed. What traffic is like is in `logos.workload.generate`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

SHOWN_MAX = 40  # characters of what was given, in an error


@click.group("workload")
def workload() -> None:
    """Workload files: generate them."""


def _numbers(pattern: str, example: str) -> Any:
    """A callback that takes an option apart into its numbers."""

    def parsed(_: click.Context, option: click.Parameter, text: str) -> tuple[str, ...]:
        found = re.fullmatch(pattern, text)
        if found is None:
            shown = text if len(text) <= SHOWN_MAX else f"{text[:SHOWN_MAX]}…"
            raise click.BadParameter(f"{shown!r} should look like {example}", param=option)
        return found.groups()

    return parsed


NUMBER = r"(\d+(?:\.\d+)?)"


@workload.command("generate")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.csv")
@click.option("--arrivals", type=click.Choice(["steady", "poisson", "bursty", "diurnal"]), default="poisson",
              show_default=True)  # fmt: skip
@click.option("--rate", type=float, default=1.0, show_default=True, help="requests/s on average")
@click.option("--duration-s", type=float, default=60.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="the same seed gives the same file")
@click.option("--model", "models", multiple=True, help="may be repeated; none: the platform chooses")
@click.option("--skew", type=float, default=0.0, show_default=True, help="Zipf's exponent over the models; 0 is even")
@click.option("--burstiness", type=float, default=4.0, show_default=True,
              help="of bursty arrivals: squared coefficient of variation of the gaps")  # fmt: skip
@click.option("--batch-share", type=float, default=0.0, show_default=True, help="of all requests, 0 to 1")
@click.option("--priorities", default="0,1,0", show_default=True, metavar="LOW,MID,HIGH", help="their weights",
              callback=_numbers(f"{NUMBER},{NUMBER},{NUMBER}", "1,2,1"))  # fmt: skip
@click.option("--prompt-tokens", type=int, default=60, show_default=True, help="median of one turn")
@click.option("--max-tokens", default="100-400", show_default=True, metavar="LOW-HIGH",
              callback=_numbers(r"(\d{1,12})-(\d{1,12})", "100-400"))  # fmt: skip
@click.option("--turns", type=int, default=1, show_default=True, help="at most so many in a conversation")
@click.option("--think-s", type=float, default=10.0, show_default=True, help="mean time from one turn to the next")
@click.option("--prefixes", type=int, default=0, show_default=True, help="system prompts shared by conversations")
@click.option("--prefix-tokens", type=int, default=200, show_default=True)
def generate(file: Path, **given: Any) -> None:
    """Write a workload to FILE.csv, as `logos replay` and `logos simulate` read it."""
    from logos.workload import generate as generation
    from logos.workload.files import write_workload

    low, mid, high = (float(weight) for weight in given.pop("priorities"))
    least, most = (int(tokens) for tokens in given.pop("max_tokens"))
    try:
        traffic = generation.Traffic(
            arrivals=generation.Arrivals(given.pop("arrivals")),
            rate_per_s=given.pop("rate"),
            models=tuple(given.pop("models")),
            priorities=(low, mid, high),
            output_tokens=(least, most),
            **given,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    rows = generation.generate(traffic)
    if not rows:
        raise click.UsageError("nothing arrives in so short a time; raise --rate or --duration-s")
    try:
        write_workload(file, rows)
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from None
    click.echo(f"wrote {len(rows)} requests over {rows[-1].arrival_ms / 1000:.1f} s to {file}")
