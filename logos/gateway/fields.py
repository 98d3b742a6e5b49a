"""The known fields of each route and the types they must have.

Types only, and the few bounds that protect Logos itself: what a number or a text means is the model's business, and a
field that is not in these tables passes through unseen. None is accepted everywhere, as OpenAI does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from logos.domain.errors import BadRequest

COUNT_MAX = 2**31 - 1
CHOICES_MAX = 128

Check = Callable[[str, Any], None]


class Fields:
    """A body whose fields are checked one by one."""

    __slots__ = ("_body",)

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body

    def check(self, known: Known) -> None:
        """Raises BadRequest for the first field that is missing or wrong, `param` naming it."""
        body = self._body
        for name in known.required:
            if body.get(name) is None:
                raise BadRequest(f"'{name}' is missing.", param=name)
        checks = known.checks
        for name, value in body.items():
            if value is not None and (check := checks.get(name)) is not None:
                check(name, value)


class Known:
    """What is known of one route's fields."""

    __slots__ = ("checks", "required")

    def __init__(self, required: tuple[str, ...], checks: Mapping[str, Check]) -> None:
        self.required = required
        self.checks = dict(checks)


def wrong(name: str, wanted: str) -> BadRequest:
    return BadRequest(f"'{name}' must be {wanted}.", param=name)


def is_text(name: str, value: Any) -> None:
    if type(value) is not str:
        raise wrong(name, "a string")


def is_flag(name: str, value: Any) -> None:
    if type(value) is not bool:
        raise wrong(name, "true or false")


def is_number(name: str, value: Any) -> None:
    if type(value) is not int and type(value) is not float:
        raise wrong(name, "a number")


def is_integer(name: str, value: Any) -> None:
    if type(value) is not int:
        raise wrong(name, "an integer")


def is_count(name: str, value: Any) -> None:
    if type(value) is not int or not 0 <= value <= COUNT_MAX:
        raise wrong(name, f"an integer from 0 to {COUNT_MAX}")


def is_choices(name: str, value: Any) -> None:
    if type(value) is not int or not 1 <= value <= CHOICES_MAX:
        raise wrong(name, f"an integer from 1 to {CHOICES_MAX}")


def is_object(name: str, value: Any) -> None:
    if type(value) is not dict:
        raise wrong(name, "an object")


def is_text_or_object(name: str, value: Any) -> None:
    if type(value) is not str and type(value) is not dict:
        raise wrong(name, "a string or an object")


def is_flag_or_count(name: str, value: Any) -> None:
    """`logprobs` is a flag for chat and a count for completions; servers differ."""
    if type(value) is not bool:
        is_count(name, value)


def is_texts(name: str, value: Any) -> None:
    """`stop`: one string or several."""
    if type(value) is str:
        return
    if type(value) is not list:
        raise wrong(name, "a string or a list of strings")
    for index, item in enumerate(value):
        is_text(f"{name}[{index}]", item)


def is_objects(name: str, value: Any) -> None:
    if type(value) is not list:
        raise wrong(name, "a list of objects")
    for index, item in enumerate(value):
        is_object(f"{name}[{index}]", item)


def is_stream_options(name: str, value: Any) -> None:
    is_object(name, value)
    include_usage = value.get("include_usage")
    if include_usage is not None:
        is_flag(f"{name}.include_usage", include_usage)


def is_messages(name: str, value: Any) -> None:
    if type(value) is not list or not value:
        raise wrong(name, "a list of at least one message")
    for index, message in enumerate(value):
        if type(message) is not dict:
            raise wrong(f"{name}[{index}]", "an object")
        if type(message.get("role")) is not str:
            raise wrong(f"{name}[{index}].role", "a string")
        content = message.get("content")
        if content is not None and type(content) is not str:
            is_parts(f"{name}[{index}].content", content)
        calls = message.get("tool_calls")
        if calls is not None:
            is_objects(f"{name}[{index}].tool_calls", calls)


def is_parts(name: str, value: Any) -> None:
    """A message's content as a list of parts; plain strings among them are tolerated, as vLLM does."""
    if type(value) is not list:
        raise wrong(name, "a string or a list of parts")
    for index, part in enumerate(value):
        if type(part) is dict:
            text = part.get("text")
            if text is not None:
                is_text(f"{name}[{index}].text", text)
        elif type(part) is not str:
            raise wrong(f"{name}[{index}]", "an object")


def is_prompt(name: str, value: Any) -> None:
    """A string, strings, token ids or lists of token ids."""
    if type(value) is str:
        return
    wanted = "a string, a list of strings, a list of token ids, or a list of such lists"
    if type(value) is not list or not value:
        raise wrong(name, f"{wanted}, not empty")
    kinds = set(map(type, value))
    if len(kinds) != 1:
        raise wrong(name, wanted)
    kind = kinds.pop()
    if kind is str or kind is int:
        return
    if kind is not list:
        raise wrong(name, wanted)
    for index, tokens in enumerate(value):
        if not tokens or set(map(type, tokens)) != {int}:
            raise wrong(f"{name}[{index}]", "a list of token ids, not empty")


_COMMON: dict[str, Check] = {
    "model": is_text,
    "user": is_text,
}
_GENERATION: dict[str, Check] = {
    **_COMMON,
    "stream": is_flag,
    "stream_options": is_stream_options,
    "max_tokens": is_count,
    "min_tokens": is_count,
    "temperature": is_number,
    "top_p": is_number,
    "top_k": is_integer,
    "min_p": is_number,
    "n": is_choices,
    "best_of": is_choices,
    "seed": is_integer,
    "stop": is_texts,
    "presence_penalty": is_number,
    "frequency_penalty": is_number,
    "repetition_penalty": is_number,
    "logit_bias": is_object,
    "logprobs": is_flag_or_count,
    "response_format": is_object,
    "ignore_eos": is_flag,
}

CHECKS: dict[str, Known] = {
    "chat": Known(
        ("messages",),
        {
            **_GENERATION,
            "messages": is_messages,
            "max_completion_tokens": is_count,
            "top_logprobs": is_count,
            "tools": is_objects,
            "tool_choice": is_text_or_object,
            "parallel_tool_calls": is_flag,
            "functions": is_objects,
            "function_call": is_text_or_object,
            "reasoning_effort": is_text,
            "service_tier": is_text,
            "store": is_flag,
            "metadata": is_object,
            "modalities": is_texts,
        },
    ),
    "completions": Known(
        ("prompt",),
        {**_GENERATION, "prompt": is_prompt, "echo": is_flag, "suffix": is_text},
    ),
    "embeddings": Known(
        ("input",),
        {**_COMMON, "input": is_prompt, "dimensions": is_count, "encoding_format": is_text},
    ),
}
