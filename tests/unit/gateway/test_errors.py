"""Errors at the door: every class of the tree has a status, every answer OpenAI's shape, none a secret."""

from __future__ import annotations

import json
import logging

import pytest

from logos.domain import errors as tree
from logos.domain.errors import LogosError
from logos.gateway.errors import (
    SHOWN,
    RefusedByUpstream,
    error_body,
    error_headers,
    send_error,
    status_of,
    stream_error,
    unexpected,
)
from logos.gateway.http import Message


def whole_tree() -> list[type[LogosError]]:
    found = [LogosError]
    for kind in found:
        found += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == tree.__name__]


@pytest.mark.parametrize("kind", whole_tree())
def test_every_class_of_the_tree_is_mapped(kind: type[LogosError]) -> None:
    assert kind in SHOWN


@pytest.mark.parametrize("kind", whole_tree())
def test_every_error_has_openais_shape(kind: type[LogosError]) -> None:
    told = json.loads(error_body(kind()))
    assert told.keys() == {"error"}
    assert told["error"].keys() == {"message", "type", "param", "code"}
    assert told["error"]["message"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (tree.BadRequest(), 400),
        (tree.ContextTooLong(), 400),
        (tree.UnknownPolicy(), 400),
        (tree.NotAuthenticated(), 401),
        (tree.BudgetExhausted(), 402),
        (tree.NotPermitted(), 403),
        (tree.PrivacyForbids(), 403),
        (tree.UnknownModel(), 404),
        (tree.MethodNotAllowed(), 405),
        (tree.BodyTooLarge(), 413),
        (tree.UnsupportedMediaType(), 415),
        (tree.InvalidDeclaration(), 422),
        (tree.LimitReached(), 429),
        (tree.ClientLeft(), 499),
        (tree.UpstreamFailed(), 502),
        (tree.UpstreamRefused(), 502),
        (tree.NoCapacity(), 503),
        (tree.QueueTimeout(), 503),
        (tree.DatabaseUnavailable(), 503),
        (tree.UpstreamTimeout(), 504),
        (RefusedByUpstream.of(422, "no"), 422),
    ],
)
def test_the_statuses_are_those_of_the_interface(error: LogosError, status: int) -> None:
    assert status_of(error) == status


def test_a_class_of_its_own_is_shown_as_its_nearest_parent() -> None:
    class TooPurple(tree.LimitReached):
        """No."""

    assert status_of(TooPurple()) == 429


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (tree.LimitReached(), b"1"),
        (tree.LimitReached(retry_after_s=0.001), b"1"),
        (tree.LimitReached(retry_after_s=12.1), b"13"),
        (tree.NoCapacity(), b"5"),
        (tree.StaleEpoch(), b"1"),
    ],
)
def test_429_and_503_say_when_to_come_back_in_whole_seconds(error: LogosError, seconds: bytes) -> None:
    assert dict(error_headers(error, status_of(error)))[b"retry-after"] == seconds


def test_other_statuses_do_not() -> None:
    assert b"retry-after" not in dict(error_headers(tree.BadRequest(), 400))


def test_a_message_that_is_no_text_is_shown_as_text() -> None:
    error = LogosError()
    error.message = {"a": 1}  # type: ignore[assignment]
    assert json.loads(error_body(error))["error"]["message"] == "{'a': 1}"


def test_the_unexpected_says_the_request_id_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def broken(prompt: str) -> None:
        raise ValueError(f"cannot handle {prompt}")

    with caplog.at_level(logging.ERROR):
        try:
            broken(f"my-secret-{6 * 7}")
        except ValueError as error:
            told = unexpected(error, "id-1")
    assert "id-1" in told.message
    assert "secret" not in told.message
    assert status_of(told) == 500
    assert "in broken" in caplog.text
    assert "ValueError" in caplog.text
    assert "my-secret-42" not in caplog.text


async def test_an_error_is_one_whole_answer() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await send_error(send, tree.LimitReached(), [(b"x-more", b"1")])
    start, body = sent
    assert start["status"] == 429
    assert dict(start["headers"])[b"content-length"] == b"%d" % len(body["body"])
    assert (b"x-more", b"1") in start["headers"]


def test_a_stream_ends_with_one_error_event_and_done() -> None:
    event, done, rest = stream_error(tree.UpstreamFailed()).split(b"\n\n")
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "upstream_error"
    assert (done, rest) == (b"data: [DONE]", b"")
