"""What clients send, checked: bodies become `Generation`, `Embedding` or `Text` values, or a `Refused`.

The shapes, defaults, limits and words of refusal follow vLLM's OpenAI server. Unknown fields are ignored, as there.
No I/O, and no decision about what to answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from logos.simulation.server import tokens
from logos.simulation.server.script import Limits, escape

T = TypeVar("T")

_PROMPTS_MAX = 1024
_CHOICES_MAX = 128
_STOPS_MAX = 16


class Refused(Exception):
    """A request that vLLM would answer with an error; `kind` is the error's `type`."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "BadRequestError",
        param: str | None = None,
        value: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message if value is None else f"{message} (parameter={param}, value={value})"
        self.status = status
        self.kind = kind
        self.param = param


class _Part(msgspec.Struct):
    type: str = "text"
    text: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None
    tool_calls: list[Any] | None = None


class _Function(msgspec.Struct):
    name: str
    parameters: dict[str, Any] | None = None


class _Tool(msgspec.Struct):
    function: _Function
    type: str = "function"


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Sampling(msgspec.Struct, kw_only=True):
    """The fields that chat and plain completions share."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    n: int | None = 1
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = False
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False


class _ChatBody(_Sampling, kw_only=True):
    messages: list[_Message]
    max_completion_tokens: int | None = None
    tools: list[_Tool] | None = None
    tool_choice: Any = None


class _CompletionBody(_Sampling, kw_only=True):
    prompt: str | list[Any]
    echo: bool = False


class _EmbeddingBody(msgspec.Struct):
    input: str | list[Any] | None = None
    messages: list[_Message] | None = None
    model: str | None = None
    encoding_format: str = "float"
    dimensions: int | None = None


class _TokenizeBody(msgspec.Struct):
    model: str | None = None
    prompt: str | None = None
    messages: list[_Message] | None = None
    return_token_strs: bool | None = False


class _DetokenizeBody(msgspec.Struct):
    tokens: list[int]
    model: str | None = None


_CHAT = msgspec.json.Decoder(_ChatBody)
_COMPLETION = msgspec.json.Decoder(_CompletionBody)
_EMBEDDING = msgspec.json.Decoder(_EmbeddingBody)
_TOKENIZE = msgspec.json.Decoder(_TokenizeBody)
_DETOKENIZE = msgspec.json.Decoder(_DetokenizeBody)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its text (what chance is seeded by) and its length."""

    text: bytes
    tokens: int


@dataclass(frozen=True, slots=True)
class Call:
    """The function that the answer must call. A `named` one ends with "stop", a `required` one with "tool_calls"."""

    name: str
    parameters: Mapping[str, Any] | None
    finish_reason: str


@dataclass(frozen=True, slots=True)
class Generation:
    """A chat or a plain completion. There are `len(prompts) * n` choices, those of a prompt side by side."""

    chat: bool
    prompts: tuple[Prompt, ...]
    limits: tuple[Limits, ...]  # one for each prompt
    n: int
    seed: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    call: Call | None = None
    echo: bool = False

    def prompt_of_choices(self) -> list[Prompt]:
        """The prompt of each choice."""
        return [prompt for prompt in self.prompts for _ in range(self.n)]


@dataclass(frozen=True, slots=True)
class Embedding:
    """Texts to embed, and how to write the vectors."""

    prompts: tuple[Prompt, ...]
    base64: bool
    dimensions: int


@dataclass(frozen=True, slots=True)
class Text:
    """A text to tokenize."""

    prompt: Prompt
    with_strings: bool


@dataclass(frozen=True, slots=True)
class Served:
    """What this server serves, which every request is checked against."""

    model: str
    context_tokens: int
    embedding_dimensions: int


def chat(body: bytes, served: Served) -> Generation:
    """A body of /v1/chat/completions. Raises Refused."""
    asked = _decode(_CHAT, body)
    _check_model(asked.model, served)
    _check_sampling(asked)
    if asked.tools is not None and not asked.tools:
        raise Refused(
            "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely.",
            param="tools",
        )
    prompt = _prompt(_rendered(asked.messages))
    tokens_max, name = asked.max_tokens, "max_tokens"
    if asked.max_completion_tokens is not None:
        tokens_max, name = asked.max_completion_tokens, "max_completion_tokens"
    limits = _limits(asked, prompt, tokens_max, name, served)
    return _generation(asked, (prompt,), (limits,), chat=True, call=_forced_call(asked))


def completion(body: bytes, served: Served) -> Generation:
    """A body of /v1/completions. Raises Refused."""
    asked = _decode(_COMPLETION, body)
    _check_model(asked.model, served)
    _check_sampling(asked)
    prompts = _prompts(asked.prompt, "prompt")
    tokens_max = 16 if asked.max_tokens is None else asked.max_tokens
    limits = tuple(_limits(asked, prompt, tokens_max, "max_tokens", served) for prompt in prompts)
    return _generation(asked, prompts, limits, chat=False, echo=asked.echo)


def embedding(body: bytes, served: Served) -> Embedding:
    """A body of /v1/embeddings. Raises Refused."""
    asked = _decode(_EMBEDDING, body)
    _check_model(asked.model, served)
    if asked.encoding_format not in ("float", "base64"):
        raise Refused("`encoding_format` must be 'float' or 'base64'.", param="encoding_format")
    dimensions = served.embedding_dimensions if asked.dimensions is None else asked.dimensions
    if not 1 <= dimensions <= served.embedding_dimensions:
        raise Refused(
            f"dimensions must be between 1 and {served.embedding_dimensions}, got {dimensions}.", param="dimensions"
        )
    if asked.messages is not None:
        prompts: tuple[Prompt, ...] = (_prompt(_rendered(asked.messages)),)
    else:
        prompts = _prompts(asked.input or [], "input")
    for prompt in prompts:
        _check_context(prompt, served)
    return Embedding(prompts, base64=asked.encoding_format == "base64", dimensions=dimensions)


def tokenize(body: bytes, served: Served) -> Text:
    """A body of /tokenize, with `prompt` or `messages`. Raises Refused."""
    asked = _decode(_TOKENIZE, body)
    _check_model(asked.model, served)
    if asked.messages is not None:
        text = _rendered(asked.messages)
    elif asked.prompt is not None:
        text = asked.prompt.encode()
    else:
        raise Refused("Either `prompt` or `messages` must be given.", kind="Bad Request", param="body.prompt")
    return Text(_prompt(text), with_strings=bool(asked.return_token_strs))


def detokenize(body: bytes, served: Served) -> list[int]:
    """A body of /detokenize: the token ids. Raises Refused."""
    asked = _decode(_DETOKENIZE, body)
    _check_model(asked.model, served)
    _check_ids(asked.tokens, "tokens")
    return asked.tokens


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        field = "body" + path.rstrip("`").replace("[", ".").replace("]", "")
        raise _invalid(f"'loc': '{field}', 'msg': '{message}'", field) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _invalid(f"'type': 'json_invalid', 'loc': 'body', 'msg': 'JSON decode error: {error}'", "body") from None


def _invalid(details: str, param: str) -> Refused:
    return Refused(f"1 validation error:\n  {{{details}}}", kind="Bad Request", param=param)


def _check_model(model: str | None, served: Served) -> None:
    if model and model != served.model:
        raise Refused(
            f"The model `{model}` does not exist. Valid aliases: {served.model}.",
            status=404,
            kind="NotFoundError",
            param="model",
        )


def _check_sampling(asked: _Sampling) -> None:
    ranges = (
        ("temperature", asked.temperature, 0.0, 2.0),
        ("top_p", asked.top_p, 0.0, 1.0),
        ("presence_penalty", asked.presence_penalty, -2.0, 2.0),
        ("frequency_penalty", asked.frequency_penalty, -2.0, 2.0),
        ("n", asked.n, 1, _CHOICES_MAX),
    )
    for name, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            raise Refused(f"{name} must be in [{low:g}, {high:g}], got {value}.", param=name, value=value)
    if asked.stream_options is not None and not asked.stream:
        raise Refused("Stream options can only be defined when `stream=True`.", param="stream_options")
    if isinstance(asked.stop, list) and len(asked.stop) > _STOPS_MAX:
        raise Refused(f"stop must have at most {_STOPS_MAX} entries, got {len(asked.stop)}.", param="stop")


def _check_context(prompt: Prompt, served: Served) -> None:
    if prompt.tokens > served.context_tokens:
        raise Refused(
            f"This model's maximum context length is {served.context_tokens} tokens. However, your prompt contains "
            f"{prompt.tokens} input tokens, which exceeds this limit even without any output tokens. "
            "Please reduce the length of the input prompt.",
            param="input_tokens",
            value=prompt.tokens,
        )


def _limits(asked: _Sampling, prompt: Prompt, tokens_max: int | None, name: str, served: Served) -> Limits:
    if tokens_max is not None and tokens_max < 1:
        raise Refused(f"max_tokens must be at least 1, got {tokens_max}.", param="max_tokens", value=tokens_max)
    if tokens_max is not None and tokens_max > served.context_tokens:
        raise Refused(
            f"{name}={tokens_max} cannot be greater than max_model_len={served.context_tokens}. "
            "Please request fewer output tokens.",
            param=name,
            value=tokens_max,
        )
    _check_context(prompt, served)
    room = served.context_tokens - prompt.tokens
    if room < 1:
        raise Refused("max_tokens must be at least 1, got 0.", param="max_tokens", value=0)
    if asked.min_tokens < 0 or (tokens_max is not None and asked.min_tokens > tokens_max):
        raise Refused(
            f"min_tokens must be between 0 and max_tokens={tokens_max}, got {asked.min_tokens}.", param="min_tokens"
        )
    return Limits(
        tokens_max=room if tokens_max is None else min(room, tokens_max),
        asked=tokens_max is not None,
        tokens_min=asked.min_tokens,
        ignore_eos=asked.ignore_eos,
        stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        include_stop=asked.include_stop_str_in_output,
    )


def _generation(
    asked: _Sampling,
    prompts: tuple[Prompt, ...],
    limits: tuple[Limits, ...],
    *,
    chat: bool,
    call: Call | None = None,
    echo: bool = False,
) -> Generation:
    options = asked.stream_options
    include_usage = bool(options and options.include_usage)
    return Generation(
        chat=chat,
        prompts=prompts,
        limits=limits,
        n=asked.n or 1,
        seed=asked.seed or 0,
        stream=bool(asked.stream),
        include_usage=include_usage,
        continuous_usage=include_usage and bool(options and options.continuous_usage_stats),
        call=call,
        echo=echo,
    )


def _forced_call(asked: _ChatBody) -> Call | None:
    """The call that `tool_choice` forces; None for "none", "auto" and no choice at all. Raises Refused."""
    choice = asked.tool_choice
    if choice is None or choice == "none":
        return None
    if not asked.tools:
        raise Refused("When using `tool_choice`, `tools` must be set.", param="tool_choice")
    if choice == "auto":
        return None
    if choice == "required":
        function = asked.tools[0].function
        return Call(function.name, function.parameters, "tool_calls")
    named = choice.get("function") if isinstance(choice, dict) else None
    if not isinstance(named, dict) or not isinstance(named.get("name"), str):
        raise Refused(
            f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or "required" are supported.',
            param="tool_choice",
        )
    for tool in asked.tools:
        if tool.function.name == named["name"]:
            return Call(tool.function.name, tool.function.parameters, "stop")
    raise Refused(
        "The tool specified in `tool_choice` does not match any of the specified `tools`", param="tool_choice"
    )


def _prompt(text: bytes) -> Prompt:
    return Prompt(text, max(1, tokens.count(text)))


def _prompts(given: str | list[Any], field: str) -> tuple[Prompt, ...]:
    """One prompt or several, each as text or as token ids."""
    if isinstance(given, str):
        return (_prompt(given.encode()),)
    if not given:
        raise Refused(f"Either {field} or {field}_embeds must be provided and non-empty.", param=field)
    if all(type(part) is int for part in given):
        return (_prompt_of_ids(given, field),)
    if len(given) > _PROMPTS_MAX:
        raise Refused(f"{field} list length {len(given)} exceeds the maximum of {_PROMPTS_MAX}.", param=field)
    prompts: list[Prompt] = []
    for part in given:
        if isinstance(part, str):
            prompts.append(_prompt(part.encode()))
        elif isinstance(part, list) and part and all(type(token) is int for token in part):
            prompts.append(_prompt_of_ids(part, field))
        else:
            raise _invalid(f"'loc': 'body.{field}', 'msg': 'Input should be text or token ids'", f"body.{field}")
    return tuple(prompts)


def _prompt_of_ids(ids: Sequence[int], field: str) -> Prompt:
    _check_ids(ids, field)
    return Prompt(tokens.decode(ids) or b"\0", len(ids))


def _check_ids(ids: Sequence[int], field: str) -> None:
    if any(not 0 <= token <= tokens.ID_MAX for token in ids):
        raise _invalid(f"'loc': 'body.{field}', 'msg': 'Token ids are not negative'", f"body.{field}")


def _rendered(messages: Sequence[_Message]) -> bytes:
    """The chat template: what of a conversation counts as the prompt. Raises Refused."""
    if not messages:
        raise Refused("Cannot apply chat template to an empty conversation. Provide at least one message.")
    lines: list[str] = []
    for message in messages:
        content = message.content
        if isinstance(content, list):
            content = "\n".join(part.text or f"<{part.type}>" for part in content)
        calls = escape(msgspec.json.encode(message.tool_calls).decode()).decode() if message.tool_calls else ""
        lines.append(f"<|{message.role}|>{content or ''}{calls}\n")
    return ("".join(lines) + "<|assistant|>").encode()
