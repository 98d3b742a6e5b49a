"""A bare HTTP/1.1 client on asyncio: keeps connections, shows bytes as they came, can be cut off at any moment.

For load and for looking at bytes, where a real client library would hide what happens or cost more than it measures.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer. Header names are lower case; of a repeated one all values, joined by a comma."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Broken(ConnectionError):
    """The server closed before its answer was complete."""


class Connection:
    """One connection to a server, opened when first needed and again after it was closed."""

    def __init__(self, base_url: str, headers: Mapping[str, str] | None = None) -> None:
        parts = urlsplit(base_url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._prefix = parts.path.rstrip("/")
        self._headers = dict(headers or {})
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reads = False

    async def post(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> Answered:
        """Sends and reads the whole answer. Raises Broken, or ConnectionError if it cannot connect."""
        status, found = await self.send(path, body, headers)
        parts = [part async for part in self.chunks(found)]
        return Answered(status, found, b"".join(parts))

    async def send(
        self, path: str, body: bytes, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Mapping[str, str]]:
        """Sends and reads the answer's head; `chunks` reads the rest."""
        await self.begin(path, body, headers)
        return await self.head()

    async def begin(self, path: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Sends, and reads nothing yet."""
        if self._writer is None or self._writer.is_closing() or self._reads:
            await self.abort()
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        fields = {"host": f"{self._host}:{self._port}", "content-type": "application/json"}
        fields |= {**self._headers, **(headers or {}), "content-length": str(len(body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self._writer.write(f"POST {self._prefix}{path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
        self._reads = True

    async def head(self) -> tuple[int, Mapping[str, str]]:
        assert self._reader is not None
        try:
            raw = await self._reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Broken("no answer") from error
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        found: dict[str, str] = {}
        for name, _, value in (line.partition(":") for line in lines):
            key = name.lower()
            found[key] = f"{found[key]}, {value.strip()}" if key in found else value.strip()
        return int(first.split(" ", 2)[1]), found

    async def chunks(self, headers: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The body's parts as they were framed. Raises Broken if it ends early."""
        assert self._reader is not None
        try:
            if headers.get("transfer-encoding", "").lower() == "chunked":
                while size := int((await self._reader.readline()).split(b";")[0] or b"x", 16):
                    yield await self._reader.readexactly(size)
                    await self._reader.readexactly(2)
                await self._reader.readline()
            elif "content-length" in headers:
                yield await self._reader.readexactly(int(headers["content-length"]))
            else:
                yield await self._reader.read()
                await self.abort()
        except (asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
            await self.abort()
            raise Broken("the answer ended early") from error
        self._reads = False
        if headers.get("connection", "").lower() == "close":
            await self.abort()

    async def abort(self) -> None:
        """Closes at once, whatever is under way."""
        writer, self._writer, self._reader, self._reads = self._writer, None, None, False
        if writer is not None:
            writer.close()
            with contextlib.suppress(ConnectionError, TimeoutError):
                await writer.wait_closed()


def chat_body(model: str, prompt: str, **more: Any) -> bytes:
    """A chat request."""
    return json.dumps({"model": model, "messages": [{"role": "user", "content": prompt}], **more}).encode()


def data_of(stream: bytes) -> list[str]:
    """What the `data:` lines of a stream say."""
    lines = stream.decode("utf-8", "replace").splitlines()
    return [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
