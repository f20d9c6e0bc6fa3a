"""Clients that scroll through studies as the viewer does, from one cheap thread: `python ui_load.py`.

The first line of standard input is JSON: `host`, `port`, `cookie`, `clients`, `rate` (slices per second and client) and
`studies` (a list of lists of requests, each a path and its number of slices). Each further line is a number of seconds
to scroll for; the answer is a line of JSON with the number of `slices`, the `late` share of requests (not received when
the next one was due) and the median `seconds` of a request.
"""

import heapq
import json
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Client:
    """A connection, and where its user is."""

    connection: socket.socket
    studies: Sequence[Sequence[tuple[str, int]]]
    study: int
    at: int = -1
    asked: float | None = None
    """When the slice was requested that has not been received."""
    left: int = -1
    """Bytes of its body that are missing; -1 before its headers are complete."""
    head: bytearray = field(default_factory=bytearray)

    def move(self) -> tuple[str, int]:
        """Return the next path and its number of slices: the viewer keeps what it has received."""
        self.at += 1
        if self.at == len(self.studies[self.study]):
            self.study, self.at = (self.study + 1) % len(self.studies), 0
        return self.studies[self.study][self.at]


class Load:
    """All clients."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._rate = options["rate"]
        self._head = f"HTTP/1.1\r\nHost: {options['host']}:{options['port']}\r\nCookie: {options['cookie']}\r\n\r\n"
        self._selector = selectors.DefaultSelector()
        self._buffer = bytearray(1 << 20)
        self._server = options["host"], options["port"]
        studies = options["studies"]
        self._clients = [Client(self._connect(), studies, n % len(studies)) for n in range(options["clients"])]

    def _connect(self) -> socket.socket:
        connection = socket.create_connection(self._server)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _open(self) -> None:
        """Connect again: the server closes connections that were idle for some seconds, as between two turns."""
        for client in self._clients:
            client.connection.close()
            client.connection = self._connect()
            self._selector.register(client.connection, selectors.EVENT_READ, client)

    def scroll(self, seconds: float) -> dict[str, float]:
        """Scroll for some seconds, then receive what was requested."""
        self._selector.close()
        self._selector = selectors.DefaultSelector()
        self._open()
        now = time.monotonic()
        end = now + seconds
        spread = 1 / self._rate / len(self._clients)
        due = [(now + i * spread, i) for i in range(len(self._clients))]
        taken: list[float] = []
        late = slices = 0
        while due or any(client.asked is not None for client in self._clients):
            now = time.monotonic()
            while due and due[0][0] <= now:
                at, number = heapq.heappop(due)
                client, pause = self._clients[number], 1 / self._rate
                if client.asked is None:
                    client.asked = now
                    path, count = client.move()
                    client.connection.sendall(f"GET {path} {self._head}".encode())
                    slices += count
                    pause = count / self._rate
                else:
                    late += 1
                if at + pause < end:
                    heapq.heappush(due, (at + pause, number))
            wait = max(0.0, due[0][0] - time.monotonic()) if due else 5.0
            for key, _ in self._selector.select(wait):
                self._receive(key.data, taken)
        return {"slices": slices, "late": late / max(1, late + len(taken)), "seconds": statistics.median(taken)}

    def _receive(self, client: Client, taken: list[float]) -> None:
        count = client.connection.recv_into(self._buffer)
        if count == 0:
            raise ConnectionError("The server has closed a connection.")
        if client.left < 0:
            client.head += memoryview(self._buffer)[:count]
            end = client.head.find(b"\r\n\r\n")
            if end < 0:
                return
            lines = client.head[:end].decode("latin-1").lower().split("\r\n")
            if " 200 " not in f"{lines[0]} ":
                raise ConnectionError(f"The server answers {lines[0]}.")
            length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
            client.left = length - (len(client.head) - end - 4)
            client.head.clear()
        else:
            client.left -= count
        if client.left == 0 and client.asked is not None:
            taken.append(time.monotonic() - client.asked)
            client.asked, client.left = None, -1


def main() -> None:
    load = Load(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        print(json.dumps(load.scroll(float(line))), flush=True)


if __name__ == "__main__":
    main()
