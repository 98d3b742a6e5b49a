"""The house rules of docs/design.md, checked on the source: who imports whom, purity, sizes.

Standard library `ast` only; nothing of `logos` is imported, so the rules hold for code that does not run
yet. The rules themselves are tested below on sources that break them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from textwrap import dedent

import pytest

ROOT = Path(__file__).resolve().parent.parent

PURE = frozenset({"domain", "classification", "prediction", "scheduling", "billing"})

# Room or root module -> what of `logos` it may import besides itself. A dotted name admits only that module.
MAY_IMPORT: dict[str, frozenset[str]] = {
    "domain": frozenset(),
    "classification": frozenset({"domain"}),
    "prediction": frozenset({"domain"}),
    "scheduling": frozenset({"domain", "prediction"}),
    "billing": frozenset({"domain"}),
    "simulation": PURE | {"declarations", "documents", "workload.rows", "workload.generate"},
    "embedding": frozenset({"domain"}),
    "providers": frozenset({"domain"}),
    "engines": frozenset({"domain"}),
    "storage": frozenset({"domain", "declarations"}),
    "telemetry": frozenset({"domain"}),
    "workload": frozenset({"domain"}),
    "analysis": frozenset({"domain", "simulation", "storage", "workload"}),
    "actors": PURE | {"engines", "storage", "telemetry", "config", "declarations", "documents"},
    "gateway": PURE | {"providers", "storage.queries", "telemetry", "config", "declarations", "documents"},
    "declarations": frozenset({"domain"}),
    "documents": frozenset({"domain"}),
    "config": frozenset({"domain", "declarations", "documents"}),
    "__init__": frozenset(),
    "__main__": frozenset({"cli"}),
}
EVERYTHING = frozenset({*MAY_IMPORT, "cli", "commands"})
MAY_IMPORT["cli"] = MAY_IMPORT["commands"] = EVERYTHING
COMPOSITION_ROOT = "deployments"

# Third-party packages that a benchmark has shown to pay for themselves in a pure room: (room, package).
PURE_EXCEPTIONS: frozenset[tuple[str, str]] = frozenset({("classification", "numpy")})

# Modules that bring a clock, chance, concurrency or I/O into a room that must have none.
# fmt: off
IMPURE_MODULES = frozenset({
    "asyncio", "concurrent", "ctypes", "ftplib", "getpass", "http", "importlib", "io", "logging", "mmap",
    "multiprocessing", "os", "pathlib", "queue", "random", "sched", "secrets", "select", "selectors",
    "shutil", "signal", "smtplib", "socket", "socketserver", "sqlite3", "ssl", "subprocess", "tempfile",
    "threading", "time", "urllib", "uuid",
})
# fmt: on
CLOCKS = frozenset({"now", "utcnow", "today"})
IMPURE_BUILTINS = frozenset({"open", "print", "input", "breakpoint", "exec", "eval", "__import__"})

FUNCTION_LINES_MAX = 69
FILE_LINES_MAX = 499


def violations(path: str, source: str) -> list[str]:
    """Every rule that the module at `path` (relative, with slashes) breaks, as `path:line: what`."""
    tree = ast.parse(source, filename=path)
    room = room_of(path)
    found = [*import_violations(path, room, tree), *size_violations(source, tree)]
    if ast.get_docstring(tree) is None:
        found.append((1, "a module opens by saying what it is for: no docstring"))
    if room in PURE:
        found += purity_violations(path, room, tree)
    return [f"{path}:{line}: {what}" for line, what in sorted(found)]


def room_of(path: str) -> str:
    """`logos/gateway/x.py` -> gateway, `logos/config.py` -> config, `deployments/x.py` -> deployments."""
    parts = PurePosixPath(path).with_suffix("").parts
    return COMPOSITION_ROOT if parts[0] == COMPOSITION_ROOT else parts[1]


def import_violations(path: str, room: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Imports against the directions of MAY_IMPORT."""
    if room == COMPOSITION_ROOT:
        return
    if room not in MAY_IMPORT:
        yield 1, f"room `{room}` is not in the table of rooms"
        return
    lazy = {id(node) for function in functions(tree) for node in ast.walk(function)}
    for node, target in imports(path, tree):
        top, _, rest = target.partition(".")
        if top == COMPOSITION_ROOT:
            if room != "cli":
                yield node.lineno, f"{COMPOSITION_ROOT} is imported by none, but `{room}` does"
            elif id(node) not in lazy:
                yield node.lineno, f"cli imports {COMPOSITION_ROOT} inside a function only"
        elif top == "logos" and not may_import(room, rest):
            yield node.lineno, f"`{room}` may not import logos.{rest}"


def may_import(room: str, target: str) -> bool:
    """Whether `room` may import `logos.<target>`; the version and the room itself are always free."""
    if target.partition(".")[0] in {room, "__version__"}:
        return True
    return any(target == allowed or target.startswith(f"{allowed}.") for allowed in MAY_IMPORT[room])


def imports(path: str, tree: ast.Module) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """Each import as (node, full dotted target), wherever in the module it stands."""
    package = PurePosixPath(path).parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) - node.level + 1]] if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                yield node, ".".join([*base, alias.name])
        elif isinstance(node, ast.Call) and called_name(node) in {"import_module", "__import__"}:
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node, argument.value


def purity_violations(path: str, room: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """No clock, chance, I/O, concurrency, logging or third party in a pure room."""
    for node, target in imports(path, tree):
        top = target.partition(".")[0]
        if top in IMPURE_MODULES:
            yield node.lineno, f"pure rooms do not import {top}"
        elif top not in {*sys.stdlib_module_names, "logos"} and (room, top) not in PURE_EXCEPTIONS:
            yield node.lineno, f"pure rooms import the standard library only, not {top}"
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield node.lineno, "pure rooms have no async code"
        elif isinstance(node, ast.Call):
            name = called_name(node)
            if isinstance(node.func, ast.Name) and name in IMPURE_BUILTINS:
                yield node.lineno, f"pure rooms do not call {name}()"
            elif isinstance(node.func, ast.Attribute) and name in CLOCKS:
                yield node.lineno, f"pure rooms read no clock: .{name}(); time arrives as an argument"


def size_violations(source: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Functions and files that have grown too long to read."""
    lines = len(source.splitlines())
    if lines > FILE_LINES_MAX:
        yield 1, f"{lines} lines; files stay under {FILE_LINES_MAX + 1}"
    for node in functions(tree):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if length > FUNCTION_LINES_MAX:
            limit = FUNCTION_LINES_MAX + 1
            yield node.lineno, f"{node.name} has {length} lines; functions stay under {limit}"


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function, nested ones and methods included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def called_name(node: ast.Call) -> str:
    """The last part of the name that is called, or the empty string."""
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def source_files() -> list[str]:
    """The modules that the rules are for, relative to the checkout."""
    roots = [ROOT / "logos", ROOT / COMPOSITION_ROOT]
    return sorted(path.relative_to(ROOT).as_posix() for root in roots for path in root.rglob("*.py"))


@pytest.mark.parametrize("path", source_files() or [pytest.param("", marks=pytest.mark.skip("nothing yet"))])
def test_the_module_keeps_the_house_rules(path: str) -> None:
    found = violations(path, (ROOT / path).read_text(encoding="utf-8"))
    assert not found, "\n" + "\n".join(found)


# The rules, seen failing.


def reported(path: str, source: str) -> str:
    """What is reported for a source, to which the docstring that every module needs is added."""
    return "\n".join(violations(path, '"""What it is for."""\n' + dedent(source)))


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("logos/domain/x.py", "import logos.scheduling", "`domain` may not import logos.scheduling"),
        ("logos/domain/x.py", "from logos import config", "`domain` may not import logos.config"),
        ("logos/domain/x.py", "from ..scheduling import events", "may not import logos.scheduling.events"),
        ("logos/billing/x.py", "from logos.prediction import ttft", "may not import logos.prediction.ttft"),
        ("logos/scheduling/x.py", "from logos.billing import prices", "may not import logos.billing.prices"),
        ("logos/classification/x.py", "from .. import embedding", "may not import logos.embedding"),
        ("logos/simulation/x.py", "from logos.engines import process", "may not import logos.engines"),
        ("logos/engines/x.py", "def f():\n    import logos.simulation", "may not import logos.simulation"),
        ("logos/storage/x.py", "from logos.config import Settings", "may not import logos.config.Settings"),
        ("logos/gateway/x.py", "from logos.storage import ledger", "may not import logos.storage"),
        ("logos/gateway/x.py", "from logos.actors import scheduler", "may not import logos.actors"),
        ("logos/actors/x.py", "from logos.gateway import relay", "may not import logos.gateway.relay"),
        ("logos/actors/x.py", "from logos.simulation import server", "may not import logos.simulation"),
        ("logos/actors/x.py", "import logos", "may not import logos."),
        ("logos/config.py", "from logos.storage import tables", "`config` may not import logos.storage"),
        ("logos/workload/x.py", "if TYPE_CHECKING:\n    import logos.cli", "may not import logos.cli"),
        ("logos/gateway/x.py", "import deployments.app", "deployments is imported by none"),
        ("logos/gateway/x.py", "import_module('deployments.app')", "deployments is imported by none"),
        ("logos/cli.py", "from deployments import app", "inside a function only"),
        ("logos/utilities/x.py", "", "room `utilities` is not in the table"),
        ("logos/utilities.py", "", "room `utilities` is not in the table"),
    ],
)
def test_an_import_against_the_directions_is_reported(path: str, source: str, expected: str) -> None:
    assert expected in reported(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("logos/domain/x.py", "from logos.domain import errors\nfrom .catalogue import Model"),
        ("logos/scheduling/x.py", "from logos.prediction import ttft\nfrom ..domain import errors"),
        ("logos/gateway/x.py", "from logos.storage import queries\nfrom logos.storage.queries import usage"),
        ("logos/gateway/x.py", "import ray, aiohttp\nfrom logos import __version__, config"),
        ("logos/actors/x.py", "import time\nfrom logos import config\nfrom logos.storage import ledger"),
        ("logos/cli.py", "from logos.workload import replay\ndef up():\n    from deployments import app"),
        ("logos/__main__.py", "from logos.cli import main"),
        ("deployments/app.py", "from logos.cli import main\nfrom logos.gateway import app"),
        ("logos/domain/x.py", "from datetime import UTC, datetime\nepoch = datetime(1970, 1, 1, tzinfo=UTC)"),
    ],
)
def test_an_import_along_the_directions_is_not_reported(path: str, source: str) -> None:
    assert reported(path, source) == ""


@pytest.mark.parametrize("room", sorted(PURE))
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import time", "do not import time"),
        ("from time import monotonic", "do not import time"),
        ("def f():\n    import random", "do not import random"),
        ("from uuid import uuid4", "do not import uuid"),
        ("import asyncio.locks", "do not import asyncio"),
        ("import logging", "do not import logging"),
        ("import socket", "do not import socket"),
        ("from os import environ", "do not import os"),
        ("import pandas as pd", "standard library only, not pandas"),
        ("import ray", "standard library only, not ray"),
        ("async def f(): ...", "no async code"),
        ("from datetime import datetime, UTC\nstarted = datetime.now(UTC)", "read no clock: .now()"),
        ("import datetime\nday = datetime.date.today()", "read no clock: .today()"),
        ("text = open('prices.yaml').read()", "do not call open()"),
        ("print('here')", "do not call print()"),
        ("module = __import__('time')", "do not call __import__()"),
    ],
)
def test_impure_code_in_a_pure_room_is_reported(room: str, source: str, expected: str) -> None:
    assert expected in reported(f"logos/{room}/x.py", source)


def test_numpy_is_only_where_a_benchmark_shows_that_it_pays() -> None:
    assert reported("logos/classification/x.py", "import numpy as np") == ""
    assert "standard library only, not numpy" in reported("logos/scheduling/x.py", "import numpy as np")


def test_rooms_with_input_and_output_may_read_the_clock() -> None:
    assert reported("logos/actors/x.py", "import time, asyncio\nasync def f(): return time.monotonic()") == ""


def test_a_function_of_seventy_lines_is_reported() -> None:
    body = "    x = 1\n" * 68
    assert reported("logos/gateway/x.py", f"def short():\n{body}") == ""
    assert "long has 70 lines" in reported("logos/gateway/x.py", f"def long():\n{body}    y = 2\n")
    assert "method has 70 lines" in reported("deployments/x.py", f"class A:\n  async def method():\n{body}    y = 2\n")


def test_a_file_of_five_hundred_lines_is_reported() -> None:
    assert reported("logos/gateway/x.py", "x = 1\n" * 498) == ""
    assert "500 lines" in reported("logos/gateway/x.py", "x = 1\n" * 499)


def test_a_module_without_a_docstring_is_reported() -> None:
    assert "no docstring" in "\n".join(violations("logos/gateway/x.py", "import ray\n"))
    assert violations("logos/gateway/x.py", '"""Relays."""\n') == []
