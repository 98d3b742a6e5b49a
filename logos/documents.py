"""Reads YAML documents into typed values, with errors of one line that name the place and say what to do.

Used by the config file, `logos apply` and /admin. Secrets given as `env:NAME` or `file:PATH` are resolved here, and no
error text quotes a value. What a document may say is in `logos.config` and `logos.declarations`.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from logos.domain.errors import InvalidDeclaration

T = TypeVar("T", bound=BaseModel)

SECRET_FILE_BYTES_MAX = 64 * 1024
CLOSE_ENOUGH = 0.6
# Anchors make small documents large, and one that is used inside itself makes them endless.
VALUES_MAX = 1_000_000
DEPTH_MAX = 100

# What pydantic says in terms of Python, in terms of the document.
_PLAIN = {
    "missing": "is missing",
    "model_type": "should be a mapping of keys to values; leave it out for the defaults",
    "tuple_type": "should be a list",
    "dict_type": "should be a mapping of keys to values",
    "string_type": "should be text; put it in quotes",
    "int_type": "should be a whole number",
    "float_type": "should be a number",
}


class _StrictLoader(yaml.SafeLoader):
    """YAML that says each key once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in the file; an empty file is an empty mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
        raise InvalidDeclaration(f"{path} cannot be read: {reason}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """`source` names the document in error texts."""
    try:
        # The loader is a SafeLoader that also refuses repeated keys.
        found = yaml.load(text, Loader=_StrictLoader)  # noqa: S506
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "this is not YAML"
        place = f"{source}:{mark.line + 1}" if mark is not None else source
        raise InvalidDeclaration(f"{place}: {problem}") from None
    except (RecursionError, ValueError):
        raise InvalidDeclaration(f"{source}: this is not YAML that can be read") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise InvalidDeclaration(f"{source}: expected `key: value` lines at the top, found {_kind(found)}")
    return found


def parse(kind: type[T], document: object, source: str = "", resolve: Callable[[str], str] | None = None) -> T:
    """The document as a `kind`. Raises InvalidDeclaration, one line; `resolve` answers env: and file: secrets."""
    flaw = _flaw(document)
    if flaw is not None:
        place, what = flaw
        text = f"{path_text(place) or 'the document'}: {what}"
        raise InvalidDeclaration(f"{source}: {text}" if source else text)
    try:
        return kind.model_validate(document, context={"resolve": resolve})
    except ValidationError as error:
        raise InvalidDeclaration(explain(kind, error, source)) from None


def secret_resolver(environment: Mapping[str, str], directory: Path) -> Callable[[str], str]:
    """Resolves `env:NAME` and `file:PATH` (relative to `directory`); errors name the reference, not the secret."""

    def resolve(reference: str) -> str:
        scheme, _, name = reference.partition(":")
        if scheme == "env":
            value = environment.get(name, "")
            if not value:
                raise ValueError(f"the environment variable {name or '(no name)'} is not set")
            return value
        try:
            path = directory / Path(name).expanduser()
            if path.stat().st_size > SECRET_FILE_BYTES_MAX:
                raise ValueError(f"the file {name} is too large for a secret")
            value = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError, RuntimeError):
            raise ValueError(f"the file {name} cannot be read") from None
        if not value:
            raise ValueError(f"the file {name} is empty")
        return value

    return resolve


def explain(kind: type[BaseModel], error: ValidationError, source: str = "") -> str:
    """The first thing that is wrong, in one line: where, what, and for an unknown key the nearest valid one."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    # An unknown key is often a misspelt required one, so it comes first.
    first = min(found, key=lambda each: each["type"] != "extra_forbidden")
    location = tuple(first["loc"])
    if first["type"] == "extra_forbidden":
        text = _unknown_key(kind, location)
    else:
        place = path_text(location)
        message = first["msg"].removeprefix("Value error, ").replace("Input should", "should").replace("\n", " ")
        message = _PLAIN.get(first["type"], message)
        separator = " " if first["type"] == "missing" else ": "
        text = f"{place}{separator}{message}" if place else message
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{source}: {text}{more}" if source else f"{text}{more}"


def _flaw(document: object) -> tuple[tuple[str | int, ...], str] | None:
    """Where something stands that fits no shape and no table, and what it is; None for what may be looked at."""
    for count, (location, value) in enumerate(_values(document)):
        if len(location) > DEPTH_MAX:
            return location[:1], "is nested too deeply, or contains itself"
        if count >= VALUES_MAX:
            return (), f"has more than {VALUES_MAX:,} values, counted again wherever an anchor is used"
        if isinstance(value, str) and _is_unstorable(value):
            return location, "has a character that cannot be stored (NUL or half of a surrogate pair)"
    return None


def _values(value: object, location: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    """Every value with its place, the keys at that of their mapping."""
    yield location, value
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield location, key
            yield from _values(inner, (*location, str(key)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _values(inner, (*location, index))


def _is_unstorable(text: str) -> bool:
    """Postgres cannot hold it."""
    return "\0" in text or any("\ud800" <= character <= "\udfff" for character in text)


def path_text(location: tuple[str | int, ...]) -> str:
    """("models", 2, "engine", "gpus") -> models[2].engine.gpus"""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f"{'.' if text else ''}{part}"
    return text


def _unknown_key(kind: type[BaseModel], location: tuple[str | int, ...]) -> str:
    *parents, wrong = location
    here = path_text(tuple(parents))
    siblings = [f"{here}.{name}" if here else name for name in _fields_at(kind, tuple(parents))]
    elsewhere = list(valid_paths(kind))
    near = _nearest(str(wrong), siblings, CLOSE_ENOUGH) or _nearest(str(wrong), elsewhere, CLOSE_ENOUGH)
    near = near or _nearest(str(wrong), siblings or elsewhere, 0.0)
    return f"unknown key {path_text(location)}: the nearest valid key is {near}"


def _nearest(wrong: str, paths: list[str], cutoff: float) -> str | None:
    """The path whose last part looks most like `wrong`."""

    def likeness(path: str) -> float:
        return difflib.SequenceMatcher(None, wrong.lower(), path.rpartition(".")[2].lower()).ratio()

    best = max(paths, key=likeness, default=None)
    return best if best is not None and likeness(best) >= cutoff else None


def _fields_at(kind: type[BaseModel], location: tuple[str | int, ...]) -> list[str]:
    """The valid keys at a place of a document."""
    current: type[BaseModel] | None = kind
    for part in location:
        if isinstance(part, str) and current is not None:
            field = current.model_fields.get(part)
            current = None if field is None else _model_in(field.annotation)
    return [] if current is None else list(current.model_fields)


def valid_paths(kind: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key that a document may have, as paths; lists are written with []."""
    for name, field in kind.model_fields.items():
        path = f"{prefix}{name}"
        yield path
        inner = _model_in(field.annotation)
        if inner is not None:
            yield from valid_paths(inner, f"{path}{'[]' if _is_list(field.annotation) else ''}.")


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model inside optionals and tuples."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _model_in(argument)
        if found is not None:
            return found
    return None


def _is_list(annotation: Any) -> bool:
    if get_origin(annotation) in {Union, types.UnionType}:
        return any(_is_list(argument) for argument in get_args(annotation))
    return get_origin(annotation) in {tuple, list}


def _kind(value: object) -> str:
    return "a list" if isinstance(value, list) else f"a {type(value).__name__}"
