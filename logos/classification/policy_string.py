"""Model names that are policies: `logos-v1__policy_privacy=LOCAL__quality=20`. Grammar, parser, errors with a place.

    name     = "logos-v" version [ "__policy_" setting *( "__" setting ) ]
    version  = "1"
    setting  = "privacy"  "=" one of the Privacy levels, in any case
             | "priority" "=" ( "low" | "mid" | "high" | "1" | "5" | "10" )
             | "default"  "=" ( "true" | "false" )
             | ( "latency" | "accuracy" | "cost" | "quality" ) "=" integer from -1024 to 1024

What is not named comes from the base policy. `default` is understood because earlier users write it: true says that
the rest is the base policy's (it always is), false that at least one setting follows. Whether such a name is meant as
a policy, and which policy is the base, is the caller's business.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from logos.classification.thresholds import BEST, WORST
from logos.domain.errors import BadRequest
from logos.domain.nouns import Policy, Priority, Privacy

CHARACTERS_MAX = 512
_HEAD = re.compile(r"logos-v(?P<version>\d+(?:\.\d+)*)(?P<rest>__.*)?", re.DOTALL)
_MARK = "policy_"
_INTEGER = re.compile(r"[+-]?[0-9]{1,6}", re.ASCII)


def is_policy_string(name: str) -> bool:
    """Whether a model name is meant as a policy, well-formed or not."""
    return _HEAD.fullmatch(name) is not None


def parse_policy_string(name: str, base: Policy) -> Policy:
    """`base` with the settings of `name`; its id stays, so that records can point to it. BadRequest (param `model`)
    shows the place of what is wrong."""
    head = _HEAD.fullmatch(name)
    if head is None or len(name) > CHARACTERS_MAX:
        raise _error(name[:80], 0, f"a policy string begins with logos-v1 and has at most {CHARACTERS_MAX} characters")
    if head["version"] != "1":
        raise _error(name, len("logos-v"), f"version {head['version']} is not known, only logos-v1 is")
    rest = head["rest"]
    if rest is None:
        return base
    start = head.end("version") + len("__")
    if not name.startswith(_MARK, start):
        raise _error(name, start, f"'{_MARK}' is expected here, as in logos-v1__policy_privacy=LOCAL__quality=20")
    settings = _settings(name, start + len(_MARK))
    if settings.pop("default", None) is False and not settings:
        raise _error(name, start + len(_MARK), "default=false needs another setting after it, as in quality=20")
    return replace(base, name=name, **settings)


def _settings(name: str, start: int) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    position = start
    for part in name[start:].split("__"):
        field, equals, value = part.partition("=")
        read = _READERS.get(field)
        if read is None:
            raise _error(name, position, f"'{field}' is no setting; {_choices(field, _READERS)}")
        if not equals:
            raise _error(name, position + len(field), f"'=' and a value for {field} are missing here")
        if field in settings:
            raise _error(name, position, f"{field} is given twice")
        try:
            settings[field] = read(value)
        except ValueError as wrong:
            raise _error(name, position + len(field) + 1, str(wrong)) from None
        position += len(part) + len("__")
    return settings


def _privacy(value: str) -> Privacy:
    try:
        return Privacy[value.upper()]
    except KeyError:
        raise ValueError(f"'{value}' is no privacy level; {_choices(value.upper(), Privacy.__members__)}") from None


def _priority(value: str) -> Priority:
    by_name = {str(int(each)): each for each in Priority} | {each.name.lower(): each for each in Priority}
    found = by_name.get(value.lower())
    if found is None:
        raise ValueError(f"'{value}' is no priority; {_choices(value.lower(), by_name)}")
    return found


def _threshold(value: str) -> int:
    if not _INTEGER.fullmatch(value) or not WORST <= int(value) <= BEST:
        raise ValueError(f"'{value}' is not an integer from {WORST} to {BEST}")
    return int(value)


def _truth(value: str) -> bool:
    if value not in {"true", "false"}:
        raise ValueError(f"'{value}' is neither true nor false")
    return value == "true"


_READERS: dict[str, Callable[[str], object]] = {
    "privacy": _privacy,
    "priority": _priority,
    "latency": _threshold,
    "accuracy": _threshold,
    "cost": _threshold,
    "quality": _threshold,
    "default": _truth,
}


def _choices(wrong: str, right: Iterable[str]) -> str:
    known = list(right)
    close = difflib.get_close_matches(wrong, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


def _error(name: str, position: int, what: str) -> BadRequest:
    """The message, then the string with a caret under the place."""
    return BadRequest(
        f"Policy string, character {position + 1}: {what}\n{name}\n{' ' * position}^",
        code="invalid_policy_string",
        param="model",
    )
