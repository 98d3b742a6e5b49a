"""Relaying, against the scripted upstream that is shipped for tests."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from multidict import CIMultiDict
from yarl import URL

from logos.domain.directory import ProviderAccess
from logos.domain.errors import NoCapacity, UpstreamFailed, UpstreamTimeout
from logos.domain.lifecycle import Outcome
from logos.domain.records import Charge
from logos.gateway.errors import RefusedByUpstream, error_object
from logos.gateway.faults import MESSAGE_CHARACTERS_MAX, Fault, hidden_error_status, refusal
from logos.gateway.http import Message
from logos.gateway.relay import StreamAnswer, Terms, WholeAnswer, open_answer
from logos.providers.fake import FakeUpstream, Script, chat_completion, chat_events, json_answer, sse_answer
from logos.providers.openai import remote_target
from logos.providers.transport import Target

TARGET = Target(URL("http://host.example:1/v1"), CIMultiDict(), ("k-secret", "host.example:1"))
STREAM = Terms(stream=True, drop_usage=True)
WHOLE = Terms(stream=False)


def clock_from(start: float) -> Callable[[], float]:
    """Ticks by one each time it is read."""
    times = iter(range(int(start), int(start) + 1000))
    return lambda: float(next(times))


class Client:
    """Takes what is sent; `fail` after so many messages, as a closed socket would."""

    def __init__(self, fail_after: int | None = None, error: type[BaseException] = OSError) -> None:
        self.messages: list[Message] = []
        self._fail_after = fail_after
        self._error = error

    async def send(self, message: Message) -> None:
        if self._fail_after is not None and len(self.messages) >= self._fail_after:
            raise self._error
        self.messages.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(each.get("body", b"") for each in self.messages)


async def opened(upstream: FakeUpstream, terms: Terms = STREAM) -> WholeAnswer | StreamAnswer | Fault:
    return await open_answer(upstream, TARGET, b"{}", terms, clock_from(100))


async def test_times_come_from_the_clock_that_is_given() -> None:
    upstream = FakeUpstream(sse_answer(chat_events(["a"])))
    answer = await opened(upstream)
    assert isinstance(answer, StreamAnswer)
    result = await answer.relay(Client().send, [], clock_from(500))
    assert (result.first_byte_at, result.ended_at) == (100.0, 500.0)


async def test_progress_can_be_read_while_the_stream_runs() -> None:
    seen: list[int] = []
    answer = await opened(FakeUpstream(sse_answer(chat_events(["a", "b", "c"]))))
    assert isinstance(answer, StreamAnswer)
    stream = answer

    async def send(message: Message) -> None:
        seen.append(stream.events.tokens)

    await stream.relay(send, [], clock_from(0))
    assert seen == sorted(seen)
    assert {1, 2, 3} <= set(seen)


@pytest.mark.parametrize("fail_after", [0, 1, 2, 3])
@pytest.mark.parametrize("error", [OSError, asyncio.CancelledError])
async def test_a_client_that_cannot_be_sent_to_closes_the_upstream(fail_after: int, error: type[BaseException]) -> None:
    upstream = FakeUpstream(sse_answer(chat_events(["a", "b", "c", "d"])))
    answer = await opened(upstream)
    assert isinstance(answer, StreamAnswer)
    result = await answer.relay(Client(fail_after, error).send, [], clock_from(0))
    assert result.outcome is Outcome.CLIENT_LEFT
    assert result.cancelled is (error is asyncio.CancelledError)
    assert upstream.responses[0].closed_early
    assert not upstream.open_responses


async def test_a_whole_answer_that_cannot_be_sent_is_a_client_that_left_and_still_has_its_usage() -> None:
    answer = await opened(FakeUpstream(json_answer(chat_completion("hello"))), WHOLE)
    assert isinstance(answer, WholeAnswer)
    result = await answer.relay(Client(0).send, [], clock_from(0))
    assert result.outcome is Outcome.CLIENT_LEFT
    assert result.usage == {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}


async def test_being_cancelled_while_the_upstream_thinks_closes_it() -> None:
    upstream = FakeUpstream(Script((60.0, b"{}")))
    task = asyncio.create_task(opened(upstream, WHOLE))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert upstream.responses[0].closed_early


@pytest.mark.parametrize(
    ("error", "outcome", "endpoint_fault"),
    [
        (UpstreamFailed("x"), Outcome.UPSTREAM_ERROR, True),
        (UpstreamTimeout("x"), Outcome.UPSTREAM_TIMEOUT, True),
        (NoCapacity("x"), Outcome.NO_CAPACITY, False),
    ],
)
async def test_what_the_transport_raises_is_a_fault(error: Any, outcome: Outcome, endpoint_fault: bool) -> None:
    for script in (Script(error=error), Script((error,))):
        fault = await opened(FakeUpstream(script), WHOLE)
        assert isinstance(fault, Fault)
        assert (fault.error, fault.outcome, fault.endpoint_fault) == (error, outcome, endpoint_fault)
        assert fault.may_retry


async def test_a_stream_given_up_before_it_is_relayed_closes_the_upstream() -> None:
    upstream = FakeUpstream(sse_answer(chat_events(["a"])))
    answer = await opened(upstream)
    assert isinstance(answer, StreamAnswer)
    answer.close()
    assert upstream.responses[0].closed_early


async def test_the_charge_of_a_whole_answer_is_known_before_its_headers() -> None:
    def charge_of(usage: Mapping[str, Any]) -> Charge:
        return Charge(int(usage["total_tokens"]), "USD")

    answer = await opened(FakeUpstream(json_answer(chat_completion("x"))), Terms(stream=False, charge_of=charge_of))
    assert isinstance(answer, WholeAnswer)
    assert answer.charge == Charge(6, "USD")
    assert json.loads(answer.body)["usage"]["cost_currency"] == "USD"


async def test_usage_that_is_no_object_is_no_usage() -> None:
    for usage in (None, 1, "x", [1]):
        document = {**chat_completion("x"), "usage": usage}
        answer = await opened(
            FakeUpstream(json_answer(document)), Terms(stream=False, charge_of=lambda _: Charge(1, "E"))
        )
        assert isinstance(answer, WholeAnswer)
        assert (answer.usage, json.loads(answer.body)) == (None, document)


async def test_an_error_of_null_beside_choices_is_no_error() -> None:
    for document in ({"error": None}, {**chat_completion("x"), "error": None}, {**chat_completion("x"), "error": {}}):
        assert isinstance(await opened(FakeUpstream(json_answer(document)), WHOLE), WholeAnswer)


@pytest.mark.parametrize(
    ("code", "status"), [(400, 400), ("429", 429), (503, 503), (200, 502), ("x", 502), (None, 502), (True, 502)]
)
def test_an_error_inside_a_200_stands_for_its_own_code(code: object, status: int) -> None:
    assert hidden_error_status({"message": "x", "code": code}) == status


def test_secrets_leave_the_words_of_a_refusal() -> None:
    said = json.dumps({"error": {"message": "key k-secret at host.example:1, sk-abcdefgh12345 " + "x" * 5000}}).encode()
    fault = refusal(400, {}, said, TARGET.secrets)
    assert isinstance(fault.error, RefusedByUpstream)
    assert fault.error.message.startswith("key [hidden] at [hidden], [hidden] xxx")
    assert len(fault.error.message) <= MESSAGE_CHARACTERS_MAX


def test_secrets_leave_every_part_of_a_refusal_that_a_client_reads() -> None:
    base_url = "https://me:p4ssw0rd@api.host.example:8443/v1?api-version=2025-01-01&code=q-secret"
    target = remote_target(ProviderAccess(1, base_url, "k-1"), "/embeddings")
    said = f"POST {target.url} to api.host.example with k-1: p4ssw0rd is wrong, q-secret too, 2025-01-01 not"
    fields = {"message": said, "type": "of k-1", "code": "at api.host.example", "param": str(target.url)}
    fault = refusal(400, {}, json.dumps({"error": fields}).encode(), target.secrets)
    assert error_object(fault.error) == {
        "message": "POST [hidden] to [hidden] with [hidden]: [hidden] is wrong, [hidden] too, 2025-01-01 not",
        "type": "of [hidden]",
        "code": "at [hidden]",
        "param": "[hidden]",
    }


@pytest.mark.parametrize("told", ["soon", "", "nan", "inf", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_a_retry_after_that_is_no_number_is_as_if_absent(told: str) -> None:
    assert refusal(429, {"retry-after": told}, b"", ()).retry_after_s is None
    assert refusal(429, {"retry-after": "1e9"}, b"", ()).retry_after_s == 3600.0
