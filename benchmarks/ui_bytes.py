"""A server that only sends as many bytes as the web app does: `python ui_bytes.py BYTES`, of one slice.

It prints its port. The clients of a benchmark share the cores with what they measure; with this server they take the
same, so that the difference is the cost of the web app.
"""

import socketserver
import sys


class Sender(socketserver.BaseRequestHandler):
    """Answers the requests of one connection: one slice, or as many as the path names."""

    def handle(self) -> None:
        received = b""
        while part := self.request.recv(65536):
            received += part
            while b"\r\n\r\n" in received:
                head, _, received = received.partition(b"\r\n\r\n")
                count = max(1, head.count(b"slice="))
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (count * len(SLICE)))
                self.request.sendall(memoryview(BLOCK)[: count * len(SLICE)])


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    SLICE = bytes(int(sys.argv[1]))
    BLOCK = SLICE * 16
    with Server(("127.0.0.1", 0), Sender) as server:
        print(server.server_address[1], flush=True)
        server.serve_forever()
