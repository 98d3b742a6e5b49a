"""docs/simulation.md against the code: every field and its default, every key of the output, every example runs."""

from __future__ import annotations

import json
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from logos.cli import run
from logos.commands.simulate import COLUMNS, TRANSITION_COLUMNS
from logos.simulation.cluster import shipped_worlds
from logos.simulation.cluster_shapes import ClassDeclared, ClusterDeclared
from logos.simulation.fault_files import FaultsDeclared
from logos.simulation.from_rows import CONVERSATION_COLUMN, KEY_COLUMN, SLO_COLUMN, TEAM_COLUMN
from logos.simulation.systems import known_systems
from logos.workload.rows import COLUMNS as WORKLOAD_COLUMNS

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "docs" / "simulation.md").read_text(encoding="utf-8")
SAME_AS = {"slo.batch": "slo.interactive"}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REQUIRED, NONE = "required", "`none`"


# Cluster files.


def _nested(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The pydantic model inside an annotation, and whether there is a list of it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in get_args(annotation):
        found, _ = _nested(argument)
        if found is not None:
            return found, get_origin(annotation) not in {Union, types.UnionType}
    return None, False


def shapes(kind: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every part of a document with its path; lists are written with []."""
    yield path, kind
    for name, field in kind.model_fields.items():
        inner, is_list = _nested(field.annotation)
        if inner is not None:
            yield from shapes(inner, f"{path}{'.' if path else ''}{name}{'[]' if is_list else ''}")


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under that heading."""
    lines = PAGE.split(f"\n### {heading}\n")[1].splitlines()
    begins = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[begins:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows[2:]


def _plain(value: Any) -> Any:
    """As a document would have it."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_unset=True)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return getattr(value, "name", value)


def _says(cell: str, field: FieldInfo) -> bool:
    """Whether the cell of a default tells the truth."""
    if field.is_required() or cell == REQUIRED:
        return field.is_required() and cell == REQUIRED
    if field.default in (None, ()) or cell == NONE:
        return field.default in (None, ()) and cell == NONE
    return bool(yaml.safe_load(cell.strip("`")) == _plain(field.default))


OF_CLUSTERS = [
    (f"`{path}`" if path else "The file", kind) for path, kind in shapes(ClusterDeclared) if path not in SAME_AS
]
OF_FAULTS = [(f"Faults: `{path}`", kind) for path, kind in shapes(FaultsDeclared) if path]
PARTS = [*OF_CLUSTERS, *OF_FAULTS]


@pytest.mark.parametrize(("heading", "kind"), PARTS, ids=[heading for heading, _ in PARTS])
def test_every_field_of_a_file_is_on_the_page_with_its_default(heading: str, kind: type[BaseModel]) -> None:
    rows = table(heading)
    assert [row[0] for row in rows] == [f"`{name}`" for name in kind.model_fields]
    wrong = [row[0] for row in rows if not _says(row[2], kind.model_fields[row[0].strip("`")])]
    assert wrong == []


def test_parts_that_the_page_leaves_out_are_like_those_it_names() -> None:
    found = dict(shapes(ClusterDeclared))
    assert all(found[path] is found[same] is ClassDeclared for path, same in SAME_AS.items())


@pytest.mark.parametrize("name", [*shipped_worlds(), *known_systems()])
def test_every_world_and_every_policy_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in PAGE


@pytest.mark.parametrize("name", [*WORKLOAD_COLUMNS, KEY_COLUMN, TEAM_COLUMN, SLO_COLUMN, CONVERSATION_COLUMN])
def test_every_column_of_a_workload_is_on_the_page(name: str) -> None:
    assert f"\n| `{name}` |" in PAGE.split("## Workloads")[1]


# What comes out.


def section(heading: str) -> str:
    """The page from that heading to the next."""
    return PAGE.split(f"### {heading}\n")[1].split("\n#")[0]


def test_every_key_of_the_json_is_on_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults = tmp_path / "faults.yaml"
    faults.write_text("nonsense: [{at_s: 1, for_s: 1}]", encoding="utf-8")
    options = ["--cluster", "contention", "--faults", str(faults), "--json"]
    assert run(["simulate", "poisson:rate=0.3,duration_s=60", *options]) == 0
    document = json.loads(capsys.readouterr().out)
    told = section("`--json`")
    assert [key for key in _keys(document) if f"`{key}`" not in told and f'"{key}"' not in told] == []


def _keys(value: Any, names_are_data: bool = False) -> Iterator[str]:
    """Every key at every depth, those left out that are names of models."""
    if isinstance(value, list):
        for each in value:
            yield from _keys(each)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not names_are_data:
                yield key
            yield from _keys(inner, key == "per_model")


@pytest.mark.parametrize("name", [*COLUMNS, *TRANSITION_COLUMNS])
def test_every_column_of_the_run_folder_is_on_the_page(name: str) -> None:
    assert f"`{name}`" in section("`--output DIR`")


# Examples.


def blocks(*languages: str) -> list[str]:
    return [text for language, text in BLOCK.findall(PAGE) if language in languages]


COMMANDS = [line for text in blocks("bash") for line in text.splitlines() if line.strip()]


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with every file of the page, named in its first line; a CSV does not keep that line."""
    for text in blocks("yaml", "csv"):
        first, _, rest = text.partition("\n")
        name = first.removeprefix("# ")
        assert re.fullmatch(r"[a-z-]+\.(yaml|csv)", name), f"an example should begin with its name: {first}"
        (tmp_path / name).write_text(rest, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", COMMANDS)
def test_every_example_runs_and_answers_what_it_sends(
    line: str, examples: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program, *arguments = line.split()
    assert program == "logos"
    assert run([*arguments, "--json"]) == 0
    for each in json.loads(capsys.readouterr().out)["runs"]:
        assert each["requests"] > 0
        assert ("faults" in each) is ("--faults" in arguments)
        assert each.get("without_faults", each)["ok"] == each["requests"]
