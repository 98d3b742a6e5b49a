"""Usage as endpoints report it, brought into one form; and how many tokens of each type are billed.

Endpoints disagree on names and on whether special tokens (cached, audio, reasoning) are part of the total. Here
`prompt` and `completion` are totals and a special type is a part of its total, so it is billed in its place, never on
top of it. Prices do not belong here.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

PROMPT = "prompt"
COMPLETION = "completion"
CACHED_PROMPT = "cached_prompt"
CACHE_WRITE_PROMPT = "cache_write_prompt"
AUDIO_PROMPT = "audio_prompt"
IMAGE_PROMPT = "image_prompt"
REASONING = "reasoning"
AUDIO_COMPLETION = "audio_completion"
ACCEPTED_PREDICTION = "accepted_prediction"
REJECTED_PREDICTION = "rejected_prediction"

# Total -> its parts. Parts are cut to what is left of the total in this order, so that parts that overlap (cached
# audio tokens are reported as both) are billed once.
PARTS_OF: dict[str, tuple[str, ...]] = {
    PROMPT: (CACHED_PROMPT, CACHE_WRITE_PROMPT, AUDIO_PROMPT, IMAGE_PROMPT),
    COMPLETION: (REASONING, AUDIO_COMPLETION, ACCEPTED_PREDICTION, REJECTED_PREDICTION),
}
TOKEN_TYPES: tuple[str, ...] = tuple(name for total, parts in PARTS_OF.items() for name in (total, *parts))
TOKENS_MAX = 2**63 - 1  # what the database holds

_PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "input_token_details")
_COMPLETION_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")
_PROMPT_PARTS = {
    "cached_tokens": CACHED_PROMPT,
    "cache_creation_tokens": CACHE_WRITE_PROMPT,
    "audio_tokens": AUDIO_PROMPT,
    "image_tokens": IMAGE_PROMPT,
}
_COMPLETION_PARTS = {
    "reasoning_tokens": REASONING,
    "audio_tokens": AUDIO_COMPLETION,
    "accepted_prediction_tokens": ACCEPTED_PREDICTION,
    "rejected_prediction_tokens": REJECTED_PREDICTION,
}
# Beside the totals rather than in the details: Anthropic's names, then DeepSeek's.
_TOP_LEVEL_PARTS = {
    "cache_read_input_tokens": CACHED_PROMPT,
    "cache_creation_input_tokens": CACHE_WRITE_PROMPT,
    "prompt_cache_hit_tokens": CACHED_PROMPT,
}


def normalise(reported: object) -> dict[str, int]:
    """Token counts by type from a `usage` object of any known shape; empty if there is none in it.

    Understood: OpenAI's chat, completions, embeddings and responses, Anthropic's messages, vLLM's. Null, negative and
    wrongly typed counts are as if absent (a negative one is 0); huge ones are cut to what the database holds. Special
    types appear when they are above 0, totals whenever they are known.
    """
    if not isinstance(reported, Mapping):
        return {}
    prompt = _first(reported, "prompt_tokens", "input_tokens")
    completion = _first(reported, "completion_tokens", "output_tokens")
    parts = _details(reported, _PROMPT_DETAILS, _PROMPT_PARTS)
    parts |= _details(reported, _COMPLETION_DETAILS, _COMPLETION_PARTS)
    beside = {name: count for field, name in _TOP_LEVEL_PARTS.items() if (count := _count(reported.get(field)))}
    if prompt is not None and _count(reported.get("prompt_tokens")) is None:
        # Anthropic's input_tokens leaves out what was read from or written to the cache; prompt_tokens never does.
        prompt += sum(count for name, count in beside.items() if name not in parts)
    parts = beside | parts
    total = _count(reported.get("total_tokens"))
    if completion is None and total is not None and prompt is not None:
        completion = max(total - prompt, 0)
    counts = _total(PROMPT, prompt, parts) | _total(COMPLETION, completion, parts)
    return {name: min(count, TOKENS_MAX) for name, count in (counts | parts).items()}


def _total(name: str, reported: int | None, parts: Mapping[str, int]) -> dict[str, int]:
    """A total that was not reported is at least the largest of its parts."""
    known = [parts[part] for part in PARTS_OF[name] if part in parts]
    if reported is None:
        return {name: max(known)} if known else {}
    return {name: reported}


def _first(reported: Mapping[str, Any], *fields: str) -> int | None:
    counts = (_count(reported.get(field)) for field in fields)
    return next((count for count in counts if count is not None), None)


def _details(reported: Mapping[str, Any], fields: tuple[str, ...], names: Mapping[str, str]) -> dict[str, int]:
    for field in fields:
        details = reported.get(field)
        if isinstance(details, Mapping):
            return {name: count for key, name in names.items() if (count := _count(details.get(key)))}
    return {}


def _count(value: object) -> int | None:
    """A token count, or None if it is none. Some endpoints send whole numbers as floats."""
    if isinstance(value, bool):
        return None
    if isinstance(value, float) and value.is_integer():  # infinite and NaN are not
        value = int(value)
    return min(max(value, 0), TOKENS_MAX) if isinstance(value, int) else None


def billable(usage: Mapping[str, int], priced: Container[str] = TOKEN_TYPES) -> dict[str, int]:
    """Tokens to bill by type: parts substituted for, not added to, their total. The values of a total and its parts
    sum up to the reported total exactly.

    A part whose type is not in `priced` is billed as its total's type. Types that are neither total nor part of one
    (another unit, should an endpoint ever report one) are billed as they are, if priced.
    """
    bill: dict[str, int] = {}
    for total, parts in PARTS_OF.items():
        left = max(usage.get(total, 0), 0)
        for part in parts:
            if part in priced:
                taken = min(max(usage.get(part, 0), 0), left)
                left -= taken
                bill[part] = taken
        bill[total] = left
    for name, count in usage.items():
        if name not in TOKEN_TYPES and name in priced:
            bill[name] = max(count, 0)
    return {name: count for name, count in bill.items() if count}
