"""Reading a stream on its way past: bytes unchanged but for the two changes that the interface page names."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logos.domain.records import Charge
from logos.gateway.sse import LINE_BYTES_MAX, EventStream
from logos.providers.fake import chat_events

USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def euro(usage: Mapping[str, Any]) -> Charge:
    return Charge(int(usage.get("completion_tokens") or 0) * 100 + 5, "EUR")


def free(usage: Mapping[str, Any]) -> Charge:
    return Charge()


def passed(events: EventStream, pieces: list[bytes]) -> bytes:
    return b"".join([*map(events.feed, pieces), events.end()])


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    """The stream in pieces, cut at these places."""
    edges = [0, *sorted({place % (len(stream) + 1) for place in at}), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges) if end > start]


def usage_line(usage: Mapping[str, Any], **extra: object) -> bytes:
    return b"data: " + json.dumps({"id": "x", "choices": [], "usage": usage, **extra}).encode() + b"\n\n"


texts = st.lists(st.text(max_size=12), max_size=6)
line_ends = st.sampled_from([b"\n", b"\r\n"])
cuts = st.lists(st.integers(0, 5000), max_size=40)
usages = st.dictionaries(
    st.sampled_from(["prompt_tokens", "completion_tokens", "total_tokens", "x-usage", "}{"]),
    st.one_of(st.integers(0, 10**6), st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2)),
    max_size=4,
).filter(lambda usage: isinstance(usage.get("completion_tokens", 0), int))


@given(texts, usages, line_ends, cuts, st.booleans())
def test_however_a_stream_is_cut_its_bytes_pass_unchanged(
    tokens: list[str], usage: dict[str, Any], line_end: bytes, at: list[int], commented: bool
) -> None:
    stream = b"".join(chat_events(tokens, usage=usage)).replace(b"\n", line_end)
    if commented:
        stream = b": ping" + line_end + line_end + stream
    events = EventStream()
    assert passed(events, cut(stream, at)) == stream
    assert events.usage == usage
    assert events.done
    assert events.finished


@given(texts, usages, line_ends, cuts)
def test_however_a_stream_is_cut_exactly_the_usage_event_is_left_out(
    tokens: list[str], usage: dict[str, Any], line_end: bytes, at: list[int]
) -> None:
    without = b"".join(chat_events(tokens)).replace(b"\n", line_end)
    stream = b"".join(chat_events(tokens, usage=usage)).replace(b"\n", line_end)
    events = EventStream(drop_usage=True, charge_of=euro)
    assert passed(events, cut(stream, at)) == without
    assert events.usage == usage


@given(texts, usages, line_ends, cuts)
def test_however_a_stream_is_cut_exactly_the_cost_is_put_in(
    tokens: list[str], usage: dict[str, Any], line_end: bytes, at: list[int]
) -> None:
    stream = b"".join(chat_events(tokens, usage=usage)).replace(b"\n", line_end)
    events = EventStream(charge_of=euro)
    out = passed(events, cut(stream, at))
    whole = EventStream(charge_of=euro)
    assert out == passed(whole, [stream])
    added = b'"cost":%s,"cost_currency":"EUR"' % cost_text(usage)
    assert out.count(added) == 1
    assert out.replace(b"," + added, b"") == stream or out.replace(added, b"") == stream
    spliced = next(line for line in out.splitlines() if added in line)
    told = json.loads(spliced.removeprefix(b"data: "))["usage"]
    assert told == {**usage, "cost": float(cost_text(usage)), "cost_currency": "EUR"}


def cost_text(usage: Mapping[str, Any]) -> bytes:
    micro_cents = euro(usage).micro_cents
    return f"{micro_cents // 10**8}.{micro_cents % 10**8:08d}".rstrip("0").encode()


@given(texts, usages, cuts)
def test_tokens_and_events_are_counted_alike_however_a_stream_is_cut(
    tokens: list[str], usage: dict[str, Any], at: list[int]
) -> None:
    stream = b"".join(chat_events(tokens, usage=usage))
    whole, split = EventStream(), EventStream()
    passed(whole, [stream])
    passed(split, cut(stream, at))
    assert (split.tokens, split.events) == (whole.tokens, whole.events)


@given(st.lists(st.text(min_size=1, max_size=12), max_size=8), cuts)
def test_events_with_text_are_counted_and_role_finish_and_usage_are_not(tokens: list[str], at: list[int]) -> None:
    events = EventStream()
    passed(events, cut(b"".join(chat_events(tokens, usage=USAGE)), at))
    assert events.tokens == len(tokens)


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_garbage_passes_unchanged(pieces: list[bytes]) -> None:
    events = EventStream(charge_of=euro)
    assert passed(events, pieces) == b"".join(pieces)


@pytest.mark.parametrize(
    "data", [b'{"usage": {"prompt_tokens": 7', b'["usage"]', b'"error"', b'{"error": \xff}', b'{"usage": 3}']
)
@pytest.mark.parametrize("drop_usage", [False, True])
def test_what_only_looks_like_usage_or_an_error_passes_unchanged(data: bytes, drop_usage: bool) -> None:
    events = EventStream(drop_usage=drop_usage, charge_of=euro)
    said = b"data: " + data + b"\n\ndata: [DONE]\n\n"
    assert passed(events, [said]) == said
    assert events.error is None
    assert events.done


def test_whole_lines_go_on_at_once_and_half_a_line_waits_for_its_rest() -> None:
    events = EventStream()
    assert events.feed(b'data: {"a":1}\n') == b'data: {"a":1}\n'
    assert events.feed(b'\ndata: {"b"') == b"\n"
    assert events.feed(b":2}\n\n") == b'data: {"b":2}\n\n'


def test_a_line_longer_than_the_bound_is_not_held_back() -> None:
    events = EventStream()
    long = b"data: " + b"x" * LINE_BYTES_MAX
    out = [events.feed(long), events.feed(b"yz"), events.feed(b"\n\ndata: [DONE]\n\n")]
    assert out == [long, b"yz", b"\n\ndata: [DONE]\n\n"]
    assert events.done


def test_usage_null_in_every_event_stays_and_is_no_usage() -> None:
    stream = b'data: {"choices":[{"delta":{"content":"a"}}],"usage":null}\n\ndata: {"choices":[],"usage": null}\n\n'
    events = EventStream(drop_usage=True, charge_of=euro)
    assert events.feed(stream) == stream
    assert events.usage is None


@pytest.mark.parametrize(
    ("said", "passed_on"),
    [
        (b'{"choices":[%s],"usage":{"prompt_tokens":1}}', b'{"choices":[%s]}'),
        (b'{"usage" : {"prompt_tokens":1} , "choices" : [%s] }', b'{"choices" : [%s] }'),
        (b'{"id":"x", "usage": {"prompt_tokens":1}, "choices":[%s]}', b'{"id":"x","choices":[%s]}'),
        (
            b'{"a":{"usage":{"prompt_tokens":1}},"choices":[%s],"usage":{"prompt_tokens":1}}',
            b'{"a":{"usage":{"prompt_tokens":1}},"choices":[%s]}',
        ),
        (b'{"usage":{"prompt_tokens":2},"choices":[%s],"usage":{"prompt_tokens":1}}', b'{"choices":[%s]}'),
    ],
)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_of_usage_beside_choices_only_the_usage_is_left_out(said: bytes, passed_on: bytes, line_end: bytes) -> None:
    choice = b'{"delta":{"content":"\xc3\xa4"},"finish_reason":"stop"}'
    stream, expected = (b"data: %s%s%s" % (each % choice, line_end, line_end) for each in (said, passed_on))
    events = EventStream(drop_usage=True, charge_of=euro)
    assert events.feed(stream) == expected
    assert events.usage == {"prompt_tokens": 1}
    assert (events.tokens, events.finished) == (1, True)
    assert events.feed(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"


def test_usage_beside_choices_passes_to_a_client_that_asked_for_it() -> None:
    stream = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":1}}\n\n'
    assert EventStream().feed(stream) == stream


def test_the_word_usage_in_a_text_changes_nothing() -> None:
    said = json.dumps({"choices": [{"delta": {"content": 'say "usage": {"total_tokens": 9} and [DONE] "error"'}}]})
    stream = f"data: {said}\n\n".encode()
    events = EventStream(drop_usage=True, charge_of=euro)
    assert events.feed(stream) == stream
    assert (events.usage, events.done, events.error) == (None, False, None)


def test_without_a_price_the_usage_passes_unchanged() -> None:
    stream = usage_line(USAGE)
    assert EventStream(charge_of=free).feed(stream) == stream


def test_a_cost_that_the_upstream_put_there_is_replaced_by_ours() -> None:
    events = EventStream(charge_of=euro)
    out = events.feed(usage_line({**USAGE, "cost": 99.0}))
    assert json.loads(out.removeprefix(b"data: "))["usage"] == {**USAGE, "cost": 3.05e-06, "cost_currency": "EUR"}


def test_the_cost_goes_into_the_top_level_usage_even_if_the_same_bytes_stand_elsewhere() -> None:
    same = {"completion_tokens": 1}
    out = EventStream(charge_of=euro).feed(usage_line(same, zz={"usage": same}))
    told = json.loads(out.removeprefix(b"data: "))
    assert told["usage"] == {**same, "cost": 1.05e-06, "cost_currency": "EUR"}
    assert told["zz"] == {"usage": same}


def test_usage_with_spaces_and_an_empty_usage_take_the_cost() -> None:
    for usage in (b"{ }", b'{ "completion_tokens" : 2 }'):
        out = EventStream(charge_of=euro).feed(b'data:{"choices": [], "usage" : %s }\n\n' % usage)
        assert json.loads(out.removeprefix(b"data:"))["usage"]["cost_currency"] == "EUR"


@pytest.mark.parametrize("error", [{"message": "out of memory", "code": 500}, "plain", {"message": {"nested": 1}}, [1]])
@given(at=cuts)
def test_an_error_event_is_noticed_whatever_its_shape_and_ends_what_goes_on(error: object, at: list[int]) -> None:
    begun, after = b"".join(chat_events(["a"], finish=None, done=False)), b"".join(chat_events(["b"], usage=USAGE))
    failed = b"data: " + json.dumps({"error": error, "usage": {"total_tokens": 1}}).encode() + b"\n\n"
    events = EventStream()
    assert passed(events, cut(begun + failed + after, at)) == begun
    assert events.error == error
    assert events.usage == {"total_tokens": 1}
    assert (events.tokens, events.done) == (1, False)


def test_nothing_of_an_overlong_line_after_an_error_goes_on() -> None:
    events = EventStream()
    assert events.feed(b'data: {"error":"plain"}\n\ndata: ' + b"x" * LINE_BYTES_MAX + b"y") == b""
    assert events.feed(b"z\n\n") == b""


def test_reasoning_beside_an_empty_content_counts() -> None:
    events = EventStream()
    events.feed(b'data: {"choices":[{"delta":{"content":"","reasoning_content":"hm"}}]}\n\n')
    assert events.tokens == 1


def test_what_an_event_carries_is_told_apart_from_its_neighbours_in_the_same_chunk() -> None:
    role, finish = chat_events([])[:2]
    thought = b'data: {"choices":[{"delta":{"content":"","reasoning":"hm"}}]}\n\n'
    named = b'data: {"choices":[{"delta":{"content":"reasoning"}}]}\n\n'
    events = EventStream()
    events.feed(role + thought + named + finish)
    assert (events.tokens, events.events) == (2, 4)


def test_an_end_without_a_newline_is_still_read() -> None:
    events = EventStream(drop_usage=True)
    assert events.feed(b"data: [DONE]") == b""
    assert events.end() == b"data: [DONE]"
    assert events.done
