"""An upstream made of a bare socket: says exactly the bytes of a script, split wherever it likes, and breaks at will.

For tests of what an HTTP library would never send. One script a connection is not enough: a connection serves one
request after the other, each by the next script.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field

HANG = "hang"  # say nothing more, keep the connection
CLOSE = "close"  # close it now
RESET = "reset"  # reset it

Step = bytes | float | str


@dataclass
class RawUpstream:
    """`requests`: bodies as received. `closed_by_client`: set when a client closed before a script was over."""

    scripts: list[list[Step]]
    requests: list[bytes] = field(default_factory=list)
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0
    closed_by_client: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            begun: bytes | None = b""
            while begun is not None and (request := await _read_request(reader, begun)) is not None:
                head, body = request
                self.heads.append(head)
                self.requests.append(body)
                script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
                begun = await self._play(script, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            self.closed_by_client.set()
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            writer.close()

    async def _play(
        self, script: Iterable[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes | None:
        """What has arrived of the next request on this connection; None if there can be none."""
        gone = asyncio.ensure_future(reader.read(1))
        try:
            for step in script:
                if step == HANG:
                    await gone
                    self.closed_by_client.set()
                    return None
                if step == CLOSE:
                    return None
                if step == RESET:
                    _reset(writer)
                    return None
                if isinstance(step, bytes):
                    writer.write(step)
                    await writer.drain()
                    await asyncio.sleep(0)
                elif isinstance(step, float):
                    done, _ = await asyncio.wait({gone}, timeout=step)
                    if done and not gone.result():
                        self.closed_by_client.set()
                        return None
        finally:
            gone.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                await gone
        return gone.result() if gone.done() and not gone.cancelled() else b""


def _reset(writer: asyncio.StreamWriter) -> None:
    """With a linger time of zero, closing sends RST instead of FIN."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def _read_request(reader: asyncio.StreamReader, begun: bytes) -> tuple[bytes, bytes] | None:
    try:
        head = begun + await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return head, await reader.readexactly(length)


@contextlib.asynccontextmanager
async def raw_upstream(*scripts: list[Step]) -> AsyncIterator[RawUpstream]:
    """Runs one on a free port. The last script is played again and again."""
    upstream = RawUpstream(list(scripts))
    tasks: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.ensure_future(upstream.serve(reader, writer)))

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def whole(body: bytes, status: str = "200 OK", content_type: str = "application/json", extra: str = "") -> bytes:
    """A whole HTTP answer."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


def stream_head(content_type: str = "text/event-stream", extra: str = "") -> bytes:
    """The head of a chunked answer."""
    return f"HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ntransfer-encoding: chunked\r\n{extra}\r\n".encode()


def chunk(data: bytes) -> bytes:
    """One chunk of it."""
    return b"%x\r\n%s\r\n" % (len(data), data)


END = b"0\r\n\r\n"
