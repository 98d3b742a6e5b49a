"""Stands between two speakers of HTTP and keeps what the server said: `with RecordingProxy(url) as proxy:`."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Self
from urllib.parse import urlsplit


class RecordingProxy:
    """A relay of TCP connections. `said` has what the server sent on each, in order of their opening."""

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        self._server = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.base_url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.said: list[bytearray] = []
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of all answers, chunks put together."""
        found: list[bytes] = []
        for stream in self.said:
            rest = bytes(stream)
            while rest:
                head, _, rest = rest.partition(b"\r\n\r\n")
                body, rest = _body(head.lower(), rest)
                found.append(body)
        return found

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                heard = bytearray()
                self.said.append(heard)
                threading.Thread(target=_pass_on, args=(client, server, None), daemon=True).start()
                threading.Thread(target=_pass_on, args=(server, client, heard), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, heard: bytearray | None) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            if heard is not None:
                heard += data
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def _body(head: bytes, rest: bytes) -> tuple[bytes, bytes]:
    """One answer's body, and what follows it."""
    if b"transfer-encoding: chunked" not in head:
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        return rest[:length], rest[length:]
    body = b""
    while rest:
        size_text, _, rest = rest.partition(b"\r\n")
        size = int(size_text, 16)
        body += rest[:size]
        rest = rest[size + 2 :]
        if not size:
            break
    return body, rest
