"""What a client sent: the body read within bounds, parsed once, checked field by field, Logos's controls taken out.

Unknown fields pass through untouched; known ones must have the type that OpenAI and vLLM document, so that a mistake is
a 400 that names the field and nothing wrong ever reaches an upstream. Which model serves it is decided elsewhere.

Controls (`priority`, `mode`, `timeout_s`) may come in the body or in an `x-logos-...` header. The header wins: it can
only be meant for Logos, while a field of that name may come from code that was written for another server. Both are
checked. All of them are taken out of the body before it is forwarded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from logos.domain.errors import BadRequest, BodyTooLarge, ClientLeft, UnsupportedMediaType
from logos.domain.nouns import Mode, Priority
from logos.gateway.fields import CHECKS, Fields
from logos.gateway.http import Receive, RequestHeaders

DEPTH_MAX = 100  # levels of lists and objects; deeper ones break parsers further on
TIMEOUT_S_MAX = 86_400.0
SLO_MS_MAX = 86_400_000
MODEL_NAME_CHARACTERS_MAX = 512
GENERATES = frozenset({"chat", "completions"})  # routes that write tokens, and stream them if asked
CONTROL_FIELDS = ("priority", "mode", "timeout_s")

PRIORITIES: dict[object, Priority] = {
    **{priority.name.lower(): priority for priority in Priority},
    **{str(priority.value): priority for priority in Priority},
    **{priority.value: priority for priority in Priority},
}
MODES: dict[object, Mode] = {mode.value: mode for mode in Mode}

_T = TypeVar("_T", Priority, Mode)

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode

_ESCAPED_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Controls:
    """What the client asked of Logos itself. None: not said, so the key's or platform's default holds."""

    priority: Priority | None = None
    mode: Mode = Mode.INTERACTIVE
    timeout_s: float | None = None
    policy: str | None = None  # id or name
    slo_ttft_ms: int | None = None
    slo_total_ms: int | None = None

    @property
    def slo_ttft_s(self) -> float | None:
        return None if self.slo_ttft_ms is None else self.slo_ttft_ms / 1000

    @property
    def slo_total_s(self) -> float | None:
        return None if self.slo_total_ms is None else self.slo_total_ms / 1000


_NOTHING_SAID = Controls()


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request as understood. `body` must not be changed: `raw` is its bytes, and both may be forwarded.

    `model` is what the client wrote, None if it wrote nothing; "auto" and policy strings are for the resolution to
    understand. `max_output_tokens` is per choice, of which there are `choices`.
    """

    capability: str  # chat, completions, embeddings
    model: str | None
    stream: bool
    include_usage: bool  # the client itself asked for usage in the stream
    controls: Controls
    max_output_tokens: int | None
    choices: int
    body: dict[str, Any] = field(repr=False)
    raw: bytes = field(repr=False)

    @property
    def usage_is_forced(self) -> bool:
        """Usage is asked of the upstream although the client did not ask, so it must be taken out again."""
        return self.stream and not self.include_usage


async def read_body(receive: Receive, headers: RequestHeaders, bytes_max: int) -> bytes:
    """The whole body. Raises BodyTooLarge as soon as it is known, UnsupportedMediaType, or ClientLeft."""
    content_type = headers.get(b"content-type")
    if content_type is not None and not _is_json(content_type):
        raise UnsupportedMediaType
    declared = headers.get(b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > bytes_max:
        raise _too_large(bytes_max)
    message = await receive()
    if message["type"] == "http.disconnect":
        raise ClientLeft
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > bytes_max:
            raise _too_large(bytes_max)
        return body
    return await _read_rest(receive, body, bytes_max)


async def _read_rest(receive: Receive, begun: bytes, bytes_max: int) -> bytes:
    parts = [begun]
    size = len(begun)
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientLeft
        part = message.get("body", b"")
        size += len(part)
        if size > bytes_max:
            raise _too_large(bytes_max)
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


def _is_json(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == b"application/json"


def _too_large(bytes_max: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body is larger than the {bytes_max} bytes that this server accepts.")


def parse(capability: str, raw: bytes, headers: RequestHeaders) -> ParsedRequest:
    """Understands one request. Raises BadRequest, with `param` naming the field at fault."""
    body = _parse_object(raw)
    fields = Fields(body)
    fields.check(CHECKS[capability])
    generates = capability in GENERATES
    stream = generates and body.get("stream") is True
    options = body.get("stream_options") if stream else None
    return ParsedRequest(
        capability=capability,
        model=_model(body),
        stream=stream,
        include_usage=options is not None and options.get("include_usage") is True,
        controls=_controls(body, headers),
        max_output_tokens=_max_output_tokens(body) if generates else None,
        choices=_choices(capability, body) if generates else 1,
        body=body,
        raw=raw,
    )


def upstream_body(parsed: ParsedRequest, upstream_model: str) -> bytes:
    """What is sent upstream: the client's own bytes if nothing has to change, else the body encoded once."""
    body = parsed.body
    force_usage = parsed.usage_is_forced
    same_model = parsed.model == upstream_model and not _may_name_model_twice(parsed.raw)
    if same_model and not force_usage and not any(name in body for name in CONTROL_FIELDS):
        return parsed.raw
    changed = {name: value for name, value in body.items() if name not in CONTROL_FIELDS}
    changed["model"] = upstream_model
    if force_usage:
        changed["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
    return _encode(changed)


def _may_name_model_twice(raw: bytes) -> bool:
    """Of a repeated key we read the last one, but an upstream might read the first: then a key could reach a model
    that it may not use. A quote inside a string is escaped, so text never counts; `\\u006` begins every escaped
    letter of "model", which no serializer writes."""
    return raw.count(b'"model"') != 1 or b"\\u006" in raw


def _parse_object(raw: bytes) -> dict[str, Any]:
    try:
        body = _decode(raw)
    except RecursionError:
        raise _too_deep() from None
    except UnicodeDecodeError:
        raise BadRequest("The request body is not valid UTF-8.") from None
    except msgspec.DecodeError as error:
        if _ESCAPED_SURROGATE.search(raw):
            raise BadRequest("The request body is not valid JSON, or has half of a surrogate pair in it.") from None
        raise BadRequest(f"The request body is not valid JSON: {_first_words(error)}.") from None
    if type(body) is not dict:
        raise BadRequest("The request body must be a JSON object.")
    # Brackets inside strings count too, so this only says when looking is not needed.
    if raw.count(b"[") + raw.count(b"{") > DEPTH_MAX and _is_deeper_than(body, DEPTH_MAX):
        raise _too_deep()
    return body


def _too_deep() -> BadRequest:
    return BadRequest(f"The request body is nested more than {DEPTH_MAX} levels deep.")


def _first_words(error: Exception) -> str:
    """The parser's words, which name a position and a kind, never the text around it."""
    return str(error).removeprefix("JSON is malformed: ").partition(" - at ")[0].lower()


def _is_deeper_than(value: object, levels: int) -> bool:
    """Level by level, without recursion."""
    level: list[Any] = [value]
    for _ in range(levels):
        below: list[Any] = []
        for container in level:
            items = container.values() if type(container) is dict else container
            below += [item for item in items if type(item) is dict or type(item) is list]
        if not below:
            return False
        level = below
    return True


def _model(body: dict[str, Any]) -> str | None:
    """Servers that read names without regard to case would take `Model` for it: then a key could reach a model that it
    may not use."""
    for name in body:
        if len(name) == len("model") and name != "model" and name.lower() == "model":
            raise BadRequest(f"'{name}' must be written 'model'.", param=name)
    model: str | None = body.get("model")
    if model is None:
        return None
    if not model or len(model) > MODEL_NAME_CHARACTERS_MAX:
        raise BadRequest(f"'model' must have 1 to {MODEL_NAME_CHARACTERS_MAX} characters.", param="model")
    return model


def _choices(capability: str, body: dict[str, Any]) -> int:
    """`n`, for each prompt: completions take several, as texts or as lists of token ids."""
    n: int = body.get("n") or 1
    prompt = body["prompt"] if capability == "completions" else None
    return n * len(prompt) if type(prompt) is list and type(prompt[0]) is not int else n


def _max_output_tokens(body: dict[str, Any]) -> int | None:
    newer: int | None = body.get("max_completion_tokens")
    older: int | None = body.get("max_tokens")
    return older if newer is None else newer


def _controls(body: dict[str, Any], headers: RequestHeaders) -> Controls:
    priority = _choice("priority", body.get("priority"), PRIORITIES)
    mode = _choice("mode", body.get("mode"), MODES)
    timeout_s = _seconds("timeout_s", body.get("timeout_s"))
    slo_ttft_ms = slo_total_ms = None
    policy = headers.get(b"x-logos-policy") or headers.get(b"policy")
    for name, value in headers.items():
        if name[:8] != b"x-logos-":
            continue
        text = value.decode("latin-1").strip()
        if name == b"x-logos-priority":
            priority = _choice("x-logos-priority", text.lower(), PRIORITIES)
        elif name == b"x-logos-mode":
            mode = _choice("x-logos-mode", text.lower(), MODES)
        elif name == b"x-logos-timeout-s":
            timeout_s = _seconds("x-logos-timeout-s", _number(text))
        elif name == b"x-logos-slo-ttft-ms":
            slo_ttft_ms = _milliseconds("x-logos-slo-ttft-ms", text)
        elif name == b"x-logos-slo-ms":
            slo_total_ms = _milliseconds("x-logos-slo-ms", text)
    if (priority, mode, timeout_s, policy, slo_ttft_ms, slo_total_ms) == (None,) * 6:
        return _NOTHING_SAID  # nearly always, so it is not made anew
    return Controls(
        priority=priority,
        mode=mode or Mode.INTERACTIVE,
        timeout_s=timeout_s,
        policy=policy.decode("utf-8", "replace").strip() or None if policy else None,
        slo_ttft_ms=slo_ttft_ms,
        slo_total_ms=slo_total_ms,
    )


def _choice(name: str, value: object, choices: dict[object, _T]) -> _T | None:
    if value is None:
        return None
    # True == 1 for a dict, so the type is looked at too.
    if isinstance(value, str | int) and not isinstance(value, bool):
        found = choices.get(value)
        if found is not None:
            return found
    wanted = dict.fromkeys(str(choice) for choice in choices)
    raise BadRequest(f"'{name}' must be one of {', '.join(wanted)}.", param=name)


def _seconds(name: str, value: object) -> float | None:
    """How long to wait in the queue; 0 means not at all."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= TIMEOUT_S_MAX:
        return float(value)
    raise BadRequest(f"'{name}' must be a number of seconds from 0 to {TIMEOUT_S_MAX:.0f}.", param=name)


def _number(text: str) -> object:
    """The number that a header says; what is not one is left for the check to refuse."""
    try:
        return float(text)
    except ValueError:
        return text


def _milliseconds(name: str, text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= len(str(SLO_MS_MAX)) and 1 <= int(text) <= SLO_MS_MAX:
        return int(text)
    raise BadRequest(f"'{name}' must be a whole number of milliseconds from 1 to {SLO_MS_MAX}.", param=name)
