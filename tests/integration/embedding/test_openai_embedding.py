"""The adapter of an OpenAI-compatible /embeddings endpoint, over real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from logos.domain.errors import EmbeddingUnavailable
from logos.embedding.openai import BATCH_TEXTS_MAX, OpenAIEmbedding
from tests.support.raw_upstream import CLOSE, HANG, RawUpstream, Step, raw_upstream, whole

KEY = "sk-secret-of-the-embedding"


def answered(vectors: Sequence[Sequence[float]]) -> bytes:
    """In reverse order, as the index and not the place counts."""
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return whole(json.dumps({"object": "list", "data": data[::-1], "model": "m"}).encode())


@asynccontextmanager
async def embedding(
    *scripts: list[Step], timeout_s: float = 2.0, api_key: str | None = KEY
) -> AsyncIterator[tuple[OpenAIEmbedding, RawUpstream]]:
    async with raw_upstream(*scripts) as upstream:
        made = OpenAIEmbedding(f"http://127.0.0.1:{upstream.port}/v1/", "bge", api_key=api_key, timeout_s=timeout_s)
        try:
            yield made, upstream
        finally:
            await made.close()


async def test_vectors_come_in_the_order_of_the_texts() -> None:
    async with embedding([answered([[1, 0], [0, 1], [0.5, 0.5]])]) as (made, upstream):
        vectors = await made.embed(["a", "b", "c"])
        assert vectors.tolist() == [[1, 0], [0, 1], [0.5, 0.5]]
        assert vectors.dtype == np.float32
        head, body = upstream.heads[0], upstream.requests[0]
        assert head.startswith(b"POST /v1/embeddings ")
        assert f"Authorization: Bearer {KEY}".encode() in head
        assert json.loads(body) == {"model": "bge", "input": ["a", "b", "c"], "encoding_format": "float"}


async def test_without_a_key_none_is_sent() -> None:
    async with embedding([answered([[1.0]])], api_key=None) as (made, upstream):
        await made.embed(["a"])
        assert b"authorization" not in upstream.heads[0].lower()


async def test_many_texts_go_in_several_calls() -> None:
    scripts: list[list[Step]] = [[answered([[1.0]] * BATCH_TEXTS_MAX)], [answered([[2.0]] * 3)]]
    async with embedding(*scripts) as (made, upstream):
        vectors = await made.embed(["x"] * (BATCH_TEXTS_MAX + 3))
        assert vectors[:, 0].tolist() == [1.0] * BATCH_TEXTS_MAX + [2.0] * 3
        assert len(upstream.requests) == 2
        assert (await made.embed([])).shape[0] == 0


async def refusal(*scripts: list[Step], timeout_s: float = 2.0) -> str:
    async with embedding(*scripts, timeout_s=timeout_s) as (made, _):
        with pytest.raises(EmbeddingUnavailable) as caught:
            await made.embed(["a"])
        assert KEY not in caught.value.message
        assert "127.0.0.1" not in caught.value.message
        return caught.value.message


async def test_an_endpoint_that_never_answers_is_given_up_in_time() -> None:
    began = time.monotonic()
    assert "does not answer" in await refusal([HANG], timeout_s=0.2)
    assert time.monotonic() - began < 2.0  # far from the time-out of anybody above


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ([whole(b'{"error": "no"}', status="500 Internal Server Error")], "HTTP 500"),
        ([whole(b"", status="302 Found", extra="location: http://127.0.0.1:9/\r\n")], "HTTP 302"),
        ([whole(b"not json")], "does not answer"),
        ([CLOSE], "does not answer"),
        ([whole(b"[1, 2]")], "something else"),
        ([whole(b'{"data": []}')], "something else"),
        ([whole(b'{"data": [{"index": 0, "embedding": "AAAA"}]}')], "something else"),
        ([whole(b'{"data": [{"index": 0, "embedding": []}]}')], "something else"),
        ([whole(b'{"data": [{"index": 0, "embedding": [1e999]}]}')], "something else"),
        ([answered([[1.0], [2.0]])], "something else"),
    ],
)
async def test_whatever_else_comes_back_is_one_error(script: list[Any], said: str) -> None:
    assert said in await refusal(script)


async def test_batches_of_different_lengths_are_refused() -> None:
    scripts: list[list[Step]] = [[answered([[1.0]] * BATCH_TEXTS_MAX)], [answered([[1.0, 2.0]])]]
    async with embedding(*scripts) as (made, _):
        with pytest.raises(EmbeddingUnavailable, match="different lengths"):
            await made.embed(["x"] * (BATCH_TEXTS_MAX + 1))


async def test_it_works_again_after_the_endpoint_came_back() -> None:
    async with embedding([CLOSE], [answered([[3.0]])]) as (made, _):
        with pytest.raises(EmbeddingUnavailable):
            await made.embed(["a"])
        assert (await made.embed(["a"])).tolist() == [[3.0]]
