"""The bytes that clients receive: vLLM's JSON bodies and server-sent events, made from prebuilt pieces.

Field by field these are what vLLM's OpenAI server writes for the same answer, so that whoever relays or reads them
is tested against the real shapes. No I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from logos.simulation.server.requests import Call, Refused
from logos.simulation.server.script import escape

FINGERPRINT = "vllm-0.32.0-simulated"
DONE = b"data: [DONE]\n\n"

encode = msgspec.json.encode

FINGERPRINT_FIELD = b',"system_fingerprint":' + encode(FINGERPRINT)


def error_body(refused: Refused) -> bytes:
    """vLLM's error object."""
    return encode(
        {
            "error": {
                "message": refused.message,
                "type": refused.kind,
                "param": refused.param,
                "code": refused.status,
            }
        }
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """One finished choice: its escaped text (or arguments) and why it ended."""

    text: bytes
    finish_reason: str
    stop_reason: str | None


def usage(prompt_tokens: int, completion_tokens: int, cached_tokens: int | None) -> dict[str, Any]:
    """The `usage` object; `cached_tokens` None leaves the details out as null."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
        "prompt_tokens_details": None if cached_tokens is None else {"cached_tokens": cached_tokens},
        "completion_tokens_details": None,
    }


def chat_body(
    reply_id: str, model: str, created: int, answers: Sequence[Answer], used: dict[str, Any], call: Call | None
) -> bytes:
    """A whole chat completion."""
    choices = [
        {
            "index": index,
            "message": _message(reply_id, index, answer, call),
            "logprobs": None,
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
            "token_ids": None,
            "routed_experts": None,
        }
        for index, answer in enumerate(answers)
    ]
    return encode(
        {
            "id": reply_id,
            "object": "chat.completion",
            "created": created,
            "model": model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": used,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }
    )


def _message(reply_id: str, index: int, answer: Answer, call: Call | None) -> dict[str, Any]:
    text = msgspec.Raw(b'"' + answer.text + b'"')
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "" if call else text,
        "refusal": None,
        "annotations": None,
        "audio": None,
        "function_call": None,
        "reasoning": None,
    }
    if call:
        function = {"name": call.name, "arguments": text}
        message["tool_calls"] = [{"id": call_id(reply_id, index), "type": "function", "function": function}]
    return message


def call_id(reply_id: str, index: int) -> str:
    """The id of the tool call of one choice."""
    return f"chatcmpl-tool-{reply_id.rpartition('-')[2]}{index}"


def completion_body(reply_id: str, model: str, created: int, answers: Sequence[Answer], used: dict[str, Any]) -> bytes:
    """A whole plain completion."""
    choices = [
        {
            "index": index,
            "text": msgspec.Raw(b'"' + answer.text + b'"'),
            "logprobs": None,
            "finish_reason": answer.finish_reason,
            "stop_reason": answer.stop_reason,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }
        for index, answer in enumerate(answers)
    ]
    return encode(
        {
            "id": reply_id,
            "object": "text_completion",
            "created": created,
            "model": model,
            "choices": choices,
            "service_tier": None,
            "system_fingerprint": FINGERPRINT,
            "usage": used,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }
    )


class Events:
    """The server-sent events of one streamed answer.

    `text` and `piece` are JSON-escaped bytes; `more` is further fields of the event, usage or fingerprint.
    """

    __slots__ = ("_call", "_chat", "_head", "_reply_id")

    def __init__(self, reply_id: str, model: str, created: int, *, chat: bool, call: Call | None) -> None:
        self._reply_id = reply_id
        self._chat = chat
        self._call = call
        kind = "chat.completion.chunk" if chat else "text_completion"
        self._head = b'data: {"id":"%b","object":"%b","created":%d,"model":"%b","choices":[' % (
            escape(reply_id),
            kind.encode(),
            created,
            escape(model),
        )

    def opening(self, index: int, more: bytes) -> bytes:
        """The event that names the role; plain completions have none."""
        if not self._chat:
            return b""
        return (
            b'%b{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]%b,'
            b'"prompt_token_ids":null,"prompt_text":null}\n\n' % (self._head, index, more)
        )

    def token(self, index: int, nth: int, piece: bytes, more: bytes) -> bytes:
        """The event of token `nth` of a choice that goes on."""
        if self._chat:
            return b'%b{"index":%d,"delta":%b,"logprobs":null,"finish_reason":null,"token_ids":null}]%b}\n\n' % (
                self._head,
                index,
                self._delta(index, nth, piece),
                more,
            )
        return (
            b'%b{"index":%d,"text":"%b","logprobs":null,"finish_reason":null,"stop_reason":null,'
            b'"prompt_token_ids":null,"token_ids":null}]%b}\n\n' % (self._head, index, piece, more)
        )

    def last(self, index: int, nth: int, answer: Answer, more: bytes) -> bytes:
        """The event of a choice's last token (`answer.text` is its text alone), with the reason why it ends."""
        why = b'"finish_reason":%b,"stop_reason":%b' % (encode(answer.finish_reason), encode(answer.stop_reason))
        if self._chat:
            delta = self._delta(index, nth, answer.text)
            return b'%b{"index":%d,"delta":%b,"logprobs":null,%b,"token_ids":null}]%b}\n\n' % (
                self._head,
                index,
                delta,
                why,
                more,
            )
        return b'%b{"index":%d,"text":"%b","logprobs":null,%b,"prompt_token_ids":null,"token_ids":null}]%b}\n\n' % (
            self._head,
            index,
            answer.text,
            why,
            more,
        )

    def usage(self, used: dict[str, Any]) -> bytes:
        """The closing event that holds nothing but the usage."""
        return b"%b]%b%b}\n\n" % (self._head, usage_field(used), FINGERPRINT_FIELD)

    def _delta(self, index: int, nth: int, piece: bytes) -> bytes:
        if self._call is None:
            return b'{"content":"%b"}' % piece
        if nth == 0:
            return (
                b'{"tool_calls":[{"id":"%b","type":"function","index":0,"function":{"name":%b,"arguments":"%b"}}]}'
                % (
                    escape(call_id(self._reply_id, index)),
                    encode(self._call.name),
                    piece,
                )
            )
        return b'{"tool_calls":[{"index":0,"function":{"arguments":"%b"}}]}' % piece


def usage_field(used: dict[str, Any]) -> bytes:
    """`usage` as a further field of the closing event, without its nulls."""
    return b',"usage":' + encode({name: value for name, value in used.items() if value is not None})


def running_usage_field(prompt_tokens: int, completion_tokens: int) -> bytes:
    """`usage` as a further field of the events before, where a client asked for that."""
    return (
        b',"usage":{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d,"completion_tokens_details":null}'
        % (
            prompt_tokens,
            prompt_tokens + completion_tokens,
            completion_tokens,
        )
    )
