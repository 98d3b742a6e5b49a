"""What a request body says, for classification and for estimates: system prompt, last user prompt, prompt tokens.

Reads parsed JSON of any shape without failing: what has the wrong type counts as absent, because validation belongs to
the gateway. Work is bounded whatever the body. No tokenizer: an estimate admits, the endpoint's usage charges.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from logos.classification.passages import excerpt

BYTES_PER_TOKEN = 4  # four characters of English; other scripts take more bytes a character and more tokens
MESSAGE_OVERHEAD_TOKENS = 4  # role and separators
MEDIA_TOKENS = 765  # an image of 1024 x 1024 at high detail; audio and files alike, for want of better
SYSTEM_CHARACTERS_MAX = 65_536
USER_CHARACTERS_MAX = 4_096
ITEMS_MAX = 20_000  # messages, parts and nested values looked at; the rest is taken to be like them

# Beside the messages these are part of what the model reads.
_EXTRA_FIELDS = ("tools", "functions", "response_format")
_SYSTEM_ROLES = frozenset({"system", "developer"})
_USER_ROLES = frozenset({"user"})


@dataclass(frozen=True, slots=True)
class Prompt:
    """Texts are cut to a bounded length, the user's in the middle; `tokens` is an estimate over the whole."""

    system: str = ""
    user: str = ""
    tokens: int = 0


def read_prompt(capability: str, body: Mapping[str, Any]) -> Prompt:
    """The prompt of a body of the route that asks for `capability`: chat, completions or embeddings."""
    if capability == "chat":
        return chat_prompt(body)
    return text_prompt(body.get("input" if capability == "embeddings" else "prompt"))


def chat_prompt(body: Mapping[str, Any]) -> Prompt:
    """Of a chat body: all system (and developer) messages, the last user message that has text, and an estimate that
    includes tool declarations and a wanted answer format."""
    messages = body.get("messages")
    if not isinstance(messages, list):
        return Prompt()
    tokens = _message_tokens(messages)
    tokens += sum(_tokens(_nested_bytes(body[field])) for field in _EXTRA_FIELDS if body.get(field))
    system = "\n".join(_texts_of(messages[:ITEMS_MAX], _SYSTEM_ROLES, SYSTEM_CHARACTERS_MAX))
    user = next(_texts_of(reversed(messages[-ITEMS_MAX:]), _USER_ROLES, USER_CHARACTERS_MAX), "")
    return Prompt(system[:SYSTEM_CHARACTERS_MAX], excerpt(user, USER_CHARACTERS_MAX), tokens)


def text_prompt(value: object) -> Prompt:
    """Of a completions `prompt` or an embeddings `input`: a text, texts, token ids, or lists of token ids."""
    if isinstance(value, str):
        return Prompt(user=excerpt(value, USER_CHARACTERS_MAX), tokens=_tokens(_bytes(value)))
    if not isinstance(value, list) or not value:
        return Prompt()
    if isinstance(value[0], int):
        return Prompt(tokens=len(value))
    looked_at = value[:ITEMS_MAX]
    tokens = sum(_tokens(_bytes(each)) for each in looked_at if isinstance(each, str))
    tokens += sum(len(each) for each in looked_at if isinstance(each, list))
    first = next((each for each in looked_at if isinstance(each, str)), "")
    return Prompt(user=excerpt(first, USER_CHARACTERS_MAX), tokens=tokens * len(value) // len(looked_at))


def _message_tokens(messages: list[Any]) -> int:
    """Estimate over all messages; when there are too many to look at, the rest is taken to be like the first."""
    tokens = items = seen = 0
    for message in messages:
        seen += 1
        tokens += MESSAGE_OVERHEAD_TOKENS
        if isinstance(message, dict):
            parts = _parts(message.get("content"))
            items += len(parts)
            tokens += _part_tokens(parts)
            if message.get("tool_calls"):
                tokens += _tokens(_nested_bytes(message["tool_calls"]))
        items += 1
        if items >= ITEMS_MAX:
            break
    return tokens * len(messages) // max(seen, 1)


def _part_tokens(parts: list[Any]) -> int:
    """A part is a text, a part with text, or media of a fixed size: its base64 length would say nothing."""
    text_bytes = media = 0
    looked_at = parts[:ITEMS_MAX]
    for part in looked_at:
        text = _text(part)
        if text is not None:
            text_bytes += _bytes(text)
        elif isinstance(part, dict):
            media += 1
    tokens = _tokens(text_bytes) + media * MEDIA_TOKENS
    return tokens * len(parts) // max(len(looked_at), 1)


def _parts(content: object) -> list[Any]:
    if isinstance(content, list):
        return content
    return [content] if isinstance(content, str) else []


def _text(part: object) -> str | None:
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        text = part.get("text", part.get("refusal"))
        return text if isinstance(text, str) else None
    return None


def _texts_of(messages: Iterable[Any], roles: frozenset[str], characters_max: int) -> Iterator[str]:
    """The text of each message in one of these roles that has any, until enough was seen."""
    seen = 0
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in roles:
            continue
        if seen > characters_max:
            return
        parts = _parts(message.get("content"))[:ITEMS_MAX]
        joined = "\n".join(text for text in map(_text, parts) if text)
        seen += len(joined)
        if joined:
            yield joined


def _nested_bytes(value: object) -> int:
    """Length of all keys and texts inside nested lists and objects, plus one for each other value: near the length
    of its JSON. Without recursion, for the depth is the client's."""
    total = looked_at = 0
    stack = [value]
    while stack and looked_at < ITEMS_MAX:
        each = stack.pop()
        looked_at += 1
        if isinstance(each, str):
            total += _bytes(each)
        elif isinstance(each, dict):
            total += sum(len(key) for key in each if isinstance(key, str))
            stack.extend(each.values())
        elif isinstance(each, list):
            stack.extend(each)
        else:
            total += 1
    return total * (looked_at + len(stack)) // max(looked_at, 1)


def _bytes(text: str) -> int:
    """Length in UTF-8; lone surrogates, which JSON can smuggle in, count as three bytes."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _tokens(text_bytes: int) -> int:
    return -(-text_bytes // BYTES_PER_TOKEN)
