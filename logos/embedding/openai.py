"""Any OpenAI-compatible `/embeddings` endpoint as an embedding.

A call that does not end in time, or ends with anything but vectors, raises EmbeddingUnavailable; whether and when to
try again is the caller's business. Neither the key nor the address appears in an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt

from logos.domain.errors import EmbeddingUnavailable

BATCH_TEXTS_MAX = 128  # in one call
ANSWER_BYTES_MAX = 64 * 1024 * 1024
CONNECTIONS_MAX = 32


class OpenAIEmbedding:
    """One session, opened at the first call. `base_url` is what `/embeddings` is added to, as in https://host/v1."""

    def __init__(self, base_url: str, model: str, *, api_key: str | None = None, timeout_s: float = 2.0) -> None:
        self.name = f"openai/{model}"
        self._url = f"{base_url.rstrip('/')}/embeddings"
        self._model = model
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Raises EmbeddingUnavailable."""
        batches = [texts[start : start + BATCH_TEXTS_MAX] for start in range(0, len(texts), BATCH_TEXTS_MAX)]
        found = [await self._embed_batch(batch) for batch in batches]
        if len({each.shape[1] for each in found}) > 1:
            raise EmbeddingUnavailable("The embedding endpoint answers with vectors of different lengths.")
        return np.concatenate(found) if found else np.zeros((0, 0), dtype=np.float32)

    async def _embed_batch(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX)
            self._session = aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=self._timeout)
        body = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        try:
            async with self._session.post(self._url, json=body, allow_redirects=False) as answer:
                if answer.status != 200:
                    raise EmbeddingUnavailable(f"The embedding endpoint answers with HTTP {answer.status}.")
                if (answer.content_length or 0) > ANSWER_BYTES_MAX:
                    raise EmbeddingUnavailable("The answer of the embedding endpoint is too large.")
                document = await answer.json(content_type=None)
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            raise EmbeddingUnavailable(f"The embedding endpoint does not answer ({type(error).__name__}).") from None
        return _vectors(document, len(texts))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def _vectors(document: Any, wanted: int) -> npt.NDArray[np.float32]:
    """Rows in the order of the texts, by the `index` of each entry."""
    try:
        entries = sorted(document["data"], key=lambda entry: int(entry["index"]))
        matrix = np.asarray([entry["embedding"] for entry in entries], dtype=np.float32)
    except (KeyError, TypeError, ValueError):
        raise EmbeddingUnavailable("The embedding endpoint answers with something else than embeddings.") from None
    if matrix.ndim != 2 or matrix.shape[0] != wanted or not matrix.shape[1] or not np.isfinite(matrix).all():
        raise EmbeddingUnavailable("The embedding endpoint answers with something else than embeddings.")
    return matrix
