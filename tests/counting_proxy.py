"""A proxy before an S3 server that notes every request, for tests and benchmarks."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

_HEAD = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.DOTALL)
_RANGE = re.compile(rb"^range: *(\S+)", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    byte_range: str


@contextmanager
def counting_proxy(server_port: int) -> Iterator[tuple[str, list[Request]]]:
    """Pass everything on to a server on loopback; give the proxy's URL, and the requests as they come."""
    requests: list[Request] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=_accept, args=(listener, server_port, requests), daemon=True)
        accepting.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests


def _accept(listener: socket.socket, server_port: int, requests: list[Request]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection(("127.0.0.1", server_port))
        for source, target, noted in ((client, server, requests), (server, client, None)):
            threading.Thread(target=_pass_on, args=(source, target, noted), daemon=True).start()


def _pass_on(source: socket.socket, target: socket.socket, requests: list[Request] | None) -> None:
    seen = b""
    try:
        while data := source.recv(1 << 16):
            if requests is not None:
                seen = _note(seen + data, requests)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        target.close()


def _note(seen: bytes, requests: list[Request]) -> bytes:
    """Note the requests whose heads are complete; give what comes after them."""
    end = 0
    for head in _HEAD.finditer(seen):
        wanted = _RANGE.search(head[3])
        requests.append(Request(head[1].decode(), head[2].decode(), wanted[1].decode() if wanted else ""))
        end = head.end()
    # A body is not read as a head: it is dropped but for what may be the start of one.
    return seen[end:][-(1 << 14) :]
