"""What an answer will say, decided when the request arrives: its tokens, and why it ends.

Plain answers are slices of one made-up corpus per engine, whose words are chosen so that each is exactly one token
of `tokens` (5 bytes, 4 bytes, 5 bytes, ...): an answer sent back in the next prompt counts what its usage said.
Pieces are kept as JSON-escaped bytes, ready for the wire. Pure: all chance comes from seeds.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from logos.simulation import lengths
from logos.simulation.server import tokens

# The first word of an answer, then words of four letters and of three in turn; each with its space is one token.
_OPENERS = ("There", "Since", "Every", "Often", "These", "While", "First", "After", "Other", "Today", "Maybe", "Great")
_FOUR_LETTERS = (
    "time work plan road data note idea step game tree wind rain mind turn help look make take give keep "
    "find grow hold open rest rise call move read send sail sing talk walk wait warm wide wise blue calm "
    "deep each ever fair fast fine from full gold good half hard high home into just kind land last late "
    "left life line long main many more most much near next once only over past path rich safe same slow "
    "soft some soon such sure tall than that then they this thus true upon vast very well went were what "
    "when will wild with"
)
_THREE_LETTERS = (
    "the and for are but not you all any can had her was one our out day get has him his how man new now "
    "old see two way who boy did its let put say she too use sun sea sky air ask bit far few fit fun joy "
    "key law lot low map may met mix nor off own pay red run set six ten top try war why yes yet"
)
_WORDS_4 = tuple(_FOUR_LETTERS.split())
_WORDS_3 = tuple(_THREE_LETTERS.split())
_CORPUS_PAIRS = 8192
_DEPTH_MAX = 8


@dataclass(frozen=True, slots=True)
class Script:
    """`pieces[i]` is what token i adds to the answer, JSON-escaped; it may be empty (hidden by a stop string)."""

    pieces: Sequence[bytes]
    finish_reason: str  # "stop" or "length"
    stop_reason: str | None = None  # the stop string that was met


@dataclass(frozen=True, slots=True)
class Limits:
    """What a request says about the length of its answer, checked against the context."""

    tokens_max: int  # never more than the context has room for
    asked: bool  # whether the request named a limit itself
    tokens_min: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    include_stop: bool = False


def escape(text: str) -> bytes:
    """`text` as the inside of a JSON string."""
    return msgspec.json.encode(text)[1:-1]


class Author:
    """Writes scripts for one engine; the same seed, prompt and limits give the same script."""

    def __init__(self, seed: int, shares: Sequence[float] = lengths.DEFAULT_SHARES) -> None:
        self._seed = seed
        self._shares = shares
        rng = random.Random(seed)
        self._corpus: list[bytes] = []
        for _ in range(_CORPUS_PAIRS):
            ends_sentence = rng.random() < 0.12
            first = f" {rng.choice(_WORDS_3)}." if ends_sentence else f" {rng.choice(_WORDS_4)}"
            second = rng.choice(_WORDS_3)
            self._corpus += [first.encode(), f" {second.capitalize() if ends_sentence else second}".encode()]

    def answer(self, prompt: bytes, request_seed: int, limits: Limits) -> Script:
        """A plain text answer to `prompt`."""
        mark = tokens.fingerprint(prompt, self._seed ^ request_seed)
        size = limits.tokens_max
        if not limits.ignore_eos:
            u = (mark * 2654435761 % 2**32) / 2**32
            natural = lengths.output_tokens(self._shares, u, limits.tokens_max if limits.asked else None)
            size = min(limits.tokens_max, max(natural, limits.tokens_min))
        pieces = self._slice(mark, size)
        if limits.stop:
            return _cut_at_stop(pieces, limits)
        ended = size < limits.tokens_max and not limits.ignore_eos
        return Script(pieces, "stop" if ended else "length")

    def tool_arguments(self, prompt: bytes, schema: object, tokens_max: int) -> Script:
        """A call's arguments, as JSON text that fits the function's schema as far as it is understood."""
        mark = tokens.fingerprint(prompt, self._seed)
        value = _instance(schema, random.Random(mark), 0)
        text = msgspec.json.encode(value if isinstance(value, dict) else {}).decode()
        # By characters: a piece must not end inside of one.
        cut = [escape(text[start : start + 5]) for start in range(0, len(text), 5)]
        return Script(cut[:tokens_max], "stop" if len(cut) <= tokens_max else "length")

    def _slice(self, mark: int, size: int) -> list[bytes]:
        start = mark % _CORPUS_PAIRS * 2
        pieces = [_OPENERS[mark % len(_OPENERS)].encode()]
        missing = size - 1
        # From an odd place, as the second token has four bytes.
        pieces += self._corpus[start + 1 : start + 1 + missing]
        while len(pieces) < size:
            pieces += self._corpus[: size - len(pieces)]
        return pieces


def _cut_at_stop(pieces: list[bytes], limits: Limits) -> Script:
    """End the answer at the first stop string in it; what it would show of that string is hidden, as in vLLM."""
    text = b"".join(pieces).decode()  # the corpus needs no escapes
    found = [(at, word) for word in limits.stop if word and (at := text.find(word)) >= 0]
    if not found:
        ended = len(pieces) < limits.tokens_max and not limits.ignore_eos
        return Script(pieces, "stop" if ended else "length")
    at, word = min(found)
    visible = at + (len(word) if limits.include_stop else 0)
    cut: list[bytes] = []
    shown = made = 0
    for piece in pieces:
        made += len(piece)
        cut.append(piece[: max(0, visible - shown)])
        shown += len(cut[-1])
        if made >= at + len(word):
            break
    return Script(cut, "stop", stop_reason=word)


def _instance(schema: object, rng: random.Random, depth: int) -> Any:
    """Some value that a JSON schema allows; schemas beyond types, enum and properties are met by their type alone."""
    if not isinstance(schema, Mapping) or depth > _DEPTH_MAX:
        return {}
    if "const" in schema:
        return schema["const"]
    if isinstance(schema.get("enum"), list) and schema["enum"]:
        return rng.choice(schema["enum"])
    for word in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(word), list) and schema[word]:
            return _instance(schema[word][0], rng, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else "string" if depth else "object")
    if isinstance(kind, list):
        kind = kind[0] if kind else "null"
    if kind == "object":
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        return {str(name): _instance(part, rng, depth + 1) for name, part in properties.items()}
    if kind == "array":
        return [_instance(schema.get("items", {"type": "string"}), rng, depth + 1)]
    scalars: dict[object, Any] = {
        "string": rng.choice(_WORDS_4),
        "integer": rng.randint(1, 9),
        "number": rng.randint(1, 99) / 10,
        "boolean": rng.random() < 0.5,
    }
    return scalars.get(kind)
