"""Serving the web app: the socket, the URL with the token, the browser, and the end."""

import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import uvicorn

from ichx.errors import ConflictError, InvalidInputError, StorageError
from ichx.web.app import create_app
from ichx.web.security import Guard
from ichx.web.site import Site
from ichx.workspace import Workspace

if TYPE_CHECKING:
    from starlette.applications import Starlette

LOOPBACK = "127.0.0.1"
FIRST_PORT = 8417
PORTS = 20
"""Number of ports that are tried if none is given."""
NICENESS = 5
"""Lower priority than a training on the same machine."""


@dataclass(frozen=True)
class ServeOptions:
    """How to serve a workspace."""

    host: str = LOOPBACK
    """Address to listen on. Any other than a loopback address exposes the workspace to the network."""
    port: int | None = None
    """None for the first free port from `FIRST_PORT`, 0 for any."""
    open_browser: bool = True
    read_only: bool = False
    path: str = "/"
    """The first page."""


class Server(uvicorn.Server):
    """A server whose end does not wait for open streams of events."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the streams, then the connections."""
        cast("Starlette", self.config.app).state.feeds.close()
        await super().shutdown(sockets)


def serve(workspace: Workspace, options: ServeOptions, started: Callable[[str], object]) -> None:
    """Serve `workspace` until SIGINT or SIGTERM.

    Args:
        workspace: The workspace to show.
        options: How to serve it.
        started: Receives the URL of the first page, with the token, once the port is bound.

    Raises:
        ConflictError: The port is in use.
        InvalidInputError: The host is not an address of this machine.
        StoreError: The store cannot be opened.
    """
    site = Site(workspace, read_only=options.read_only)
    try:
        bound = _bind(options.host, options.port)
        port = bound.getsockname()[1]
        guard = Guard(_names(options.host, port), port)
        name = f"[{options.host}]" if ":" in options.host else options.host
        shown = LOOPBACK if options.host in ("0.0.0.0", "::") else name
        url = f"http://{shown}:{port}{options.path}{'&' if '?' in options.path else '?'}token={guard.token}"
        with suppress(OSError):
            os.nice(NICENESS)
        config = uvicorn.Config(
            create_app(site, guard),
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=1,
        )
        started(url)
        if options.open_browser and _has_screen():
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        with suppress(KeyboardInterrupt):  # uvicorn repeats the signal after its end
            Server(config).run(sockets=[bound])
    finally:
        site.close()


def _bind(host: str, port: int | None) -> socket.socket:
    """Return a socket that is bound to a port of `host`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    ports = range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else [port]
    for candidate in ports:
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, candidate))
        except socket.gaierror as error:
            bound.close()
            raise InvalidInputError(f"Unknown host: {host!r}.", "Use an address of this machine.") from error
        except PermissionError as error:
            bound.close()
            raise StorageError(f"Port {candidate} needs more rights.", "Use a port from 1024 to 65535.") from error
        except OSError as error:
            bound.close()
            last = error
            continue
        return bound
    if port is not None and last.errno is not None and last.errno != 98:
        raise InvalidInputError(f"Cannot listen on {host}:{port}: {last.strerror}.", "Use an address of this machine.")
    used = f"Port {port} is" if port is not None else f"The ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are"
    raise ConflictError(f"{used} in use.", "Use `--port 0` for any free port, or end the other program.")


def _names(host: str, port: int) -> frozenset[str]:
    """Return the accepted `Host` headers."""
    names = {LOOPBACK, "localhost", "[::1]"}
    if host in ("0.0.0.0", "::"):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    else:
        names.add(f"[{host}]" if ":" in host else host.lower())
    return frozenset(f"{name}:{port}" for name in names)


def _has_screen() -> bool:
    """Return whether a browser opened here has a screen; a text browser would take over the terminal."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
