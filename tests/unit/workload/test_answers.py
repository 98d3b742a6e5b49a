import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.workload.answers import AnswerReader, error_text


def event(**document: object) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\n\n"


def words(*said: str) -> list[bytes]:
    return [event(choices=[{"index": 0, "delta": {"content": word}}]) for word in said]


FINISH = event(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}])
USAGE = event(choices=[], usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5})
DONE = b"data: [DONE]\n\n"


def read(*parts: bytes) -> AnswerReader:
    """Part n arrives at n seconds."""
    reader = AnswerReader()
    for at, part in enumerate(parts):
        reader.feed(part, float(at))
    return reader


def test_the_first_token_is_the_first_text_not_the_role() -> None:
    role = event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
    reader = read(role, b": ping\n\n", *words("He", "llo"), FINISH, USAGE, DONE)
    assert (reader.first_at, reader.last_at, list(reader.gaps())) == (2.0, 3.0, [1.0])
    assert (reader.text, reader.is_whole, reader.error) == ("Hello", True, None)
    assert (reader.usage.prompt_tokens, reader.usage.completion_tokens) == (3, 2)


@given(st.lists(st.integers(1, 400), max_size=12))
def test_an_answer_reads_the_same_however_it_is_cut(cuts: list[int]) -> None:
    data = b"".join([*words("ä", "日本", " \\n"), FINISH, USAGE, DONE]).replace(b"\n", b"\r\n")
    edges = [0, *sorted({cut for cut in cuts if cut < len(data)}), len(data)]
    reader = AnswerReader()
    for begin, end in itertools.pairwise(edges):
        reader.feed(data[begin:end], 0.0)
    assert (reader.text, reader.is_whole, reader.usage.completion_tokens) == ("ä日本 \\n", True, 2)


@pytest.mark.parametrize(
    "delta", [{"reasoning_content": "hm"}, {"reasoning": "hm"}, {"tool_calls": [{"function": {"name": "f"}}]}]
)
def test_reasoning_and_tool_calls_are_tokens_too(delta: dict[str, object]) -> None:
    assert read(event(choices=[{"delta": delta}])).first_at == 0.0


def test_a_completion_has_its_text_elsewhere() -> None:
    assert read(event(choices=[{"text": "a", "finish_reason": "length"}])).text == "a"


@pytest.mark.parametrize(("end", "is_whole"), [(FINISH, True), (DONE, True), (b"", False), (USAGE, False)])
def test_only_an_answer_that_says_so_is_whole(end: bytes, is_whole: bool) -> None:
    assert read(*words("a", "b"), end).is_whole is is_whole


def test_an_error_inside_the_stream_is_an_error() -> None:
    reader = read(*words("a"), event(error={"message": "the engine died", "type": "t"}), DONE)
    assert reader.error == "the engine died"


def test_what_is_no_answer_is_an_error_that_shows_it() -> None:
    assert read(b"data: <html>\n\n").error == "the server sent what is no answer: <html>"
    assert read(b"data: " + b"[" * 100_000 + b"\n").error is not None


def test_an_answer_that_was_not_streamed_has_text_and_usage_and_no_first_token() -> None:
    reader = AnswerReader()
    reader.whole(b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}],"usage":{"completion_tokens":1}}')
    assert (reader.text, reader.is_whole, reader.first_at, reader.usage.completion_tokens) == ("Hi", True, None, 1)
    reader = AnswerReader()
    reader.whole(b"<html>")
    assert not reader.is_whole


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"error":{"message":"no key","type":"x"}}', "no key"),
        (b'{"error":"no key"}', "no key"),
        (b'{"detail":"no key"}', '{"detail":"no key"}'),
        (b"Bad\n Gateway", "Bad Gateway"),
        (b"", "(nothing)"),
        (b"\xff" * 999, "\N{REPLACEMENT CHARACTER}" * 300),
    ],
)
def test_the_message_of_an_error_is_found_or_its_beginning_shown(body: bytes, told: str) -> None:
    assert error_text(body) == told
