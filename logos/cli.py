"""The command `logos`: starts a platform, and talks to one over HTTP.

Exit codes: 0 on success, 2 on bad usage and bad input, 1 otherwise; errors are one line on stderr that says what to do.
Everything heavy is imported by the command that needs it, so `logos --help` is quick. No rule of the platform lives
here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote

import click

from logos import __version__
from logos.commands.errors import BadInput
from logos.commands.numbers import NOT_NEGATIVE
from logos.domain.errors import InvalidDeclaration, LogosError

if TYPE_CHECKING:
    import httpx

    from logos.scheduling.replay import Difference

API_BASE = "http://127.0.0.1:8080"
KINDS = {
    "provider": ("providers", ("id", "name", "kind", "privacy", "base_url", "has_api_key")),
    "model": ("models", ("id", "name", "context_length", "tags", "weights", "description")),
    "endpoint": ("endpoints", ("id", "model", "provider", "privacy", "upstream_model", "max_parallel", "engine")),
    "policy": ("policies", ("id", "name", "privacy", "priority", "latency", "accuracy", "cost", "quality")),
    "team": ("teams", ("id", "name", "limits", "budget")),
    "user": ("users", ("id", "name", "email", "role", "teams")),
    "price": ("prices", ("id", "model", "provider", "token_type", "per_million", "currency", "valid_from")),
}
KEY_COLUMNS = ("id", "name", "prefix", "role", "team", "log", "models", "limits", "expires_at")
CELL_WIDTH_MAX = 60
PAGE_ROWS = 1000
REFUSED_INPUT = (400, 413, 415, 422)  # HTTP statuses


def main() -> NoReturn:
    """The entry of the installed command."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """One command line; what it says goes to stdout and stderr, how it ended is returned."""
    try:
        found = cli.main(list(arguments), prog_name="logos", standalone_mode=False)
        return found if isinstance(found, int) else 0
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "logos"
        return _complain(f"{error.format_message().rstrip('.')} (see `{path} --help`)", 2)
    except click.ClickException as error:
        return _complain(error.format_message(), error.exit_code)
    except LogosError as error:
        return _complain(error.message, 2 if isinstance(error, InvalidDeclaration) else 1)
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", 1)
    except BrokenPipeError:
        # Whoever read us has had enough; Python must not complain about it when it flushes at exit.
        sys.stdout = None
        return 1


def _complain(message: str, code: int) -> int:
    click.echo(f"logos: {' '.join(message.split())}", err=True)
    return code


class Platform:
    """A platform that runs somewhere, spoken to over HTTP."""

    def __init__(self, api_base: str, key: str | None) -> None:
        self.api_base = api_base.rstrip("/").removesuffix("/v1")
        self._key = key

    def ask(self, method: str, path: str, document: object = None, **parameters: Any) -> Any:
        """The JSON answer. Raises click.ClickException with one line that says what to do, BadInput where the platform
        refuses what was given."""
        import httpx

        headers = {} if self._key is None else {"authorization": f"Bearer {self._key}"}
        try:
            # A proxy of the environment is for the world outside, not for this machine.
            outside = not httpx.URL(self.api_base).host.startswith(("127.", "localhost", "::1"))
            with httpx.Client(timeout=30.0, trust_env=outside) as client:
                answer = client.request(
                    method, f"{self.api_base}{path}", headers=headers, json=document, params=parameters
                )
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, UnicodeError):
            raise BadInput("that is no address or key; give --api-base like http://HOST:PORT") from None
        except httpx.HTTPError as error:
            raise click.ClickException(
                f"no platform answers at {self.api_base} ({type(error).__name__}): "
                "start one with `logos up`, or name it with --api-base or LOGOS_API_BASE"
            ) from None
        return self._understood(answer)

    def _understood(self, answer: httpx.Response) -> Any:
        try:
            found = answer.json()
        except ValueError:
            found = None
        if answer.is_success and found is not None:
            return found
        error = found.get("error") if isinstance(found, dict) else None
        told = error.get("message") if isinstance(error, dict) else None
        message = told or f"{self.api_base} answered HTTP {answer.status_code}, not like a Logos platform"
        if answer.status_code == 401:
            message += " Give --logos-key or set LOGOS_KEY."
        raise BadInput(message) if answer.status_code in REFUSED_INPUT else click.ClickException(message)

    def list_all(self, path: str, **parameters: Any) -> list[dict[str, Any]]:
        """Every page of a list."""
        rows: list[dict[str, Any]] = []
        while True:
            page = self.ask("GET", path, limit=PAGE_ROWS, offset=len(rows), **parameters)
            rows += page["rows"]
            if not page["rows"] or len(rows) >= page["total"]:
                return rows


def _platform_options(command: Any) -> Any:
    """--api-base and --logos-key, or LOGOS_API_BASE and LOGOS_KEY."""
    base = click.option("--api-base", envvar="LOGOS_API_BASE", default=API_BASE, show_default=True, metavar="URL")
    key = click.option("--logos-key", envvar="LOGOS_KEY", default=None, metavar="KEY", help="or LOGOS_KEY")
    as_json = click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
    return base(key(as_json(command)))


def _ref(text: str) -> str:
    return quote(text, safe="")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="logos")
def cli() -> None:
    """Logos: one OpenAI-compatible door in front of remote providers and of vLLM models on your own GPU nodes."""


@cli.command()
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="YAML settings")
@click.option("--host", default=None, help="[default: 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), default=None, help="0 takes a free one  [default: 8080]")
@click.option("--data-dir", type=click.Path(file_okay=False, path_type=Path), default=None, help="[default: ~/.logos]")
@click.option("--ray-address", default=None, metavar="ADDR", help="use this Ray cluster instead of starting one")
def up(config: Path | None, host: str | None, port: int | None, data_dir: Path | None, ray_address: str | None) -> int:
    """Start a platform in the foreground; Ctrl-C or SIGTERM drains and stops everything it started."""
    from logos.config import load

    directory = None if data_dir is None else str(data_dir)
    overrides: dict[str, dict[str, Any]] = {
        "server": {"host": host, "port": port, "data_dir": directory},
        "ray": {"address": ray_address},
    }
    configuration = load(config, overrides=overrides)

    from deployments.up import run as run_platform

    return run_platform(configuration)


@cli.command()
@_platform_options
def status(api_base: str, logos_key: str | None, as_json: bool) -> int:
    """Health, engines, queues, ledger lag. Exit code 1 unless everything is well."""
    found = Platform(api_base, logos_key).ask("GET", "/health")
    if as_json:
        _print_json(found)
    else:
        from logos.commands.status import status_lines

        for line in status_lines(found):
            click.echo(line)
    return 0 if found.get("status") == "ok" else 1


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@_platform_options
def apply(file: Path, api_base: str, logos_key: str | None, as_json: bool) -> None:
    """Declare providers, models, endpoints, policies, prices, teams, keys. The same FILE twice changes nothing."""
    from logos.config import load_declaration

    declaration = load_declaration(file)
    _print_applied(Platform(api_base, logos_key).ask("POST", "/admin/apply", declaration.revealed()), as_json)


@cli.group()
def key() -> None:
    """Client keys: create, list, rotate, revoke."""


@key.command("create")
@click.argument("name")
@click.argument("fields", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--team", help="share this team's limits")
@click.option("--model", "models", multiple=True, help="permit this model only; may be repeated")
@click.option("--admin", is_flag=True, help="an administrator's key")
@click.option("--log", type=click.Choice(["BILLING", "FULL"]), help="what its requests leave behind")
@_platform_options
def create_key(
    name: str,
    fields: tuple[str, ...],
    team: str | None,
    models: tuple[str, ...],
    admin: bool,
    log: str | None,
    api_base: str,
    logos_key: str | None,
    as_json: bool,
) -> None:
    """Make a key and print it, this once. Further FIELDs as in `logos apply`: limits.concurrent=8, key=env:CI_KEY."""
    from logos.declarations import KeyDeclared

    document = _document(fields)
    given = {"team": team, "models": list(models) or None, "role": "admin" if admin else None, "log": log}
    document |= {"name": name, **{field: value for field, value in given.items() if value is not None}}
    wire = _checked(KeyDeclared, document)
    found = Platform(api_base, logos_key).ask("POST", "/admin/keys", wire)
    _print_secret(found, name, as_json)


@key.command("list")
@click.option("--revoked", is_flag=True, help="the revoked ones instead")
@_platform_options
def list_keys(revoked: bool, api_base: str, logos_key: str | None, as_json: bool) -> None:
    """Every key, without its secret."""
    _print_rows(Platform(api_base, logos_key).list_all("/admin/keys", revoked=revoked), KEY_COLUMNS, as_json)


@key.command("rotate")
@click.argument("name")
@click.option("--grace-s", type=NOT_NEGATIVE, default=0.0, help="the old secret is good for so long")
@_platform_options
def rotate_key(name: str, grace_s: float, api_base: str, logos_key: str | None, as_json: bool) -> None:
    """Give a key a new secret and print it, this once."""
    found = Platform(api_base, logos_key).ask("POST", f"/admin/keys/{_ref(name)}/rotate", {"grace_s": grace_s})
    _print_secret(found, name, as_json)


@key.command("revoke")
@click.argument("name")
@_platform_options
def revoke_key(name: str, api_base: str, logos_key: str | None, as_json: bool) -> None:
    """End a key at once and for good."""
    _print_applied(Platform(api_base, logos_key).ask("DELETE", f"/admin/keys/{_ref(name)}"), as_json)


def _add_kind(singular: str) -> None:
    """create, list and delete of one kind: the same for all of them."""
    plural, columns = KINDS[singular]
    has_name = singular not in {"endpoint", "price"}

    @cli.group(singular, help=f"{plural.capitalize()}: create, list, delete.")
    def group() -> None:
        pass

    @group.command("create", help=f"Create or replace a {singular}. FIELDs as in `logos apply`: a.b=VALUE.")
    @click.argument(
        "fields", nargs=-1, required=True, metavar="[NAME] FIELD=VALUE..." if has_name else "FIELD=VALUE..."
    )
    @_platform_options
    def create(fields: tuple[str, ...], api_base: str, logos_key: str | None, as_json: bool) -> None:
        document = _document(fields, name_first=has_name)
        wire = _checked(_declared(singular), document)
        _print_applied(Platform(api_base, logos_key).ask("POST", f"/admin/{plural}", wire), as_json)

    @group.command("list", help=f"Every {singular}.")
    @_platform_options
    def list_rows(api_base: str, logos_key: str | None, as_json: bool) -> None:
        _print_rows(Platform(api_base, logos_key).list_all(f"/admin/{plural}"), columns, as_json)

    @group.command("delete", help=f"Delete a {singular} by {'name or ' if has_name else ''}id.")
    @click.argument("ref")
    @_platform_options
    def delete(ref: str, api_base: str, logos_key: str | None, as_json: bool) -> None:
        _print_applied(Platform(api_base, logos_key).ask("DELETE", f"/admin/{plural}/{_ref(ref)}"), as_json)


for _singular in KINDS:
    _add_kind(_singular)


@cli.group()
def journal() -> None:
    """The ordered record of scheduling events and commands."""


@journal.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of text")
def replay_journal(file: Path, as_json: bool) -> int:
    """Events in, commands compared, differences out. Exit code 1 if there are any."""
    from logos.actors.journal import replay_file

    try:
        differences = replay_file(file)
    except InvalidDeclaration as error:
        raise BadInput(f"{file}: {error.message.removeprefix(f'{file} ')}") from None
    if as_json:
        _print_json([_shown(each) for each in differences])
    for each in [] if as_json else differences:
        click.echo(f"entry {each.index}: {each.event}")
        click.echo(f"  recorded: {list(each.expected)}")
        click.echo(f"  replayed: {list(each.got)}")
    if not differences and not as_json:
        click.echo("the journal replays to the same commands")
    return 1 if differences else 0


def _shown(difference: Difference) -> dict[str, Any]:
    recorded, replayed = ([repr(each) for each in commands] for commands in (difference.expected, difference.got))
    return {"index": difference.index, "event": repr(difference.event), "recorded": recorded, "replayed": replayed}


def _document(fields: Sequence[str], *, name_first: bool = False) -> dict[str, Any]:
    """NAME a=1 b.c=[x, y] -> {"name": NAME, "a": 1, "b": {"c": ["x", "y"]}}; values are YAML."""
    from logos.documents import parse_yaml

    document: dict[str, Any] = {}
    for index, field in enumerate(fields):
        path, equals, value = field.partition("=")
        if not equals:
            if name_first and index == 0:
                document["name"] = field
                continue
            raise click.UsageError(f"{field!r} should be FIELD=VALUE")
        *parents, last = path.split(".")
        place = document
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise click.UsageError(f"{path} is inside of something that was given a value before")
        try:
            place[last] = parse_yaml(f"value: {value}" if value else "value: ''", path)["value"]
        except InvalidDeclaration:
            raise click.UsageError(f"the value of {path} cannot be read; put it in quotes") from None
    return document


def _declared(singular: str) -> Any:
    from logos import declarations

    return getattr(declarations, f"{singular.capitalize()}Declared")


def _checked(kind: Any, document: dict[str, Any]) -> dict[str, Any]:
    """As plain JSON values, secrets resolved here. Raises InvalidDeclaration."""
    from logos.config import load_item
    from logos.declarations import revealed

    return revealed(load_item(kind, document))


def _print_applied(found: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(found)
        return
    for change in found["changes"]:
        click.echo(f"{change['action']} {change['kind']} {change['name']}")
    for name, secret in found["keys"].items():
        click.echo(f"key {name}, shown this once: {secret}")
    _print_notes(found)
    if not found["changes"]:
        click.echo(f"nothing changed (version {found['version']})")


def _print_secret(found: Mapping[str, Any], name: str, as_json: bool) -> None:
    """Only the key on stdout, so that a script can take it."""
    if as_json:
        _print_json(found)
        return
    for secret in found["keys"].values():
        click.echo(secret)
    _print_notes(found)
    told = "keep it, it is not shown again" if found["keys"] else "the key is the one that you gave"
    click.echo(f"{name}: {told}", err=True)


def _print_notes(found: Mapping[str, Any]) -> None:
    for note in found["notes"]:
        click.echo(f"note: {note}", err=True)
    if found["acknowledged"] < found["holders"]:
        click.echo(f"note: {found['acknowledged']} of {found['holders']} gateways and others confirmed it", err=True)


def _print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    if as_json:
        _print_json(list(rows))
        return
    table = [list(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    widths = [max(len(line[index]) for line in table) for index in range(len(columns))]
    for line in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    """One line of at most 60 characters; nothing for what is not set."""
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        value = " ".join(f"{name}={_cell(inner)}" for name, inner in value.items() if inner not in (None, [], ""))
    if isinstance(value, list):
        value = ",".join(_cell(inner) for inner in value)
    text = str(value) if value != "" else "-"
    return text if len(text) <= CELL_WIDTH_MAX else f"{text[: CELL_WIDTH_MAX - 1]}…"


def _flattened(found: Any, path: str = "") -> list[tuple[str, str]]:
    """{"a": {"b": 1}} -> [("a.b", "1")]; a list of objects is numbered."""
    if isinstance(found, Mapping) and found:
        return [line for name, inner in found.items() for line in _flattened(inner, f"{path}.{name}" if path else name)]
    if isinstance(found, list) and found and isinstance(found[0], Mapping):
        return [line for index, inner in enumerate(found) for line in _flattened(inner, f"{path}[{index}]")]
    return [(path, _cell(found))]


def _print_json(found: object) -> None:
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))


def _add_commands() -> None:
    """Those that have a module of their own."""
    from logos.commands import replay, simulate, workload

    cli.add_command(replay.replay)
    cli.add_command(simulate.simulate)
    cli.add_command(workload.workload)


_add_commands()
