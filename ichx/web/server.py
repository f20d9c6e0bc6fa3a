"""Serving the web app: the socket, the URL with the token, the browser, and the end."""

import errno
import ipaddress
import os
import resource
import shlex
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from ichx.errors import ConflictError, InvalidInputError, StorageError
from ichx.inference.predicted_files import read_predicted
from ichx.signals import handle_signals
from ichx.web.app import create_app
from ichx.web.security import LOOPBACK_NAMES, Guard
from ichx.web.site import Site
from ichx.workspace import Workspace

LOOPBACK = "127.0.0.1"
FIRST_PORT = 8417
PORTS = 20
"""Number of ports that are tried if none is given."""
STOP_SECONDS = 1.0
"""Time for handlers that work after a stop signal."""
OPEN_FILES = 65_536
"""Limit of open files, connections among them, if the system allows it."""
NICENESS = 15
"""Lower priority than a training on the same machine: it keeps 98 % of two busy cores, however many pages are open."""


@dataclass(frozen=True)
class ServeOptions:
    """How to serve a workspace."""

    host: str = LOOPBACK
    """Name or address to listen on. Any other than a loopback address exposes the workspace to the network."""
    allow_network: bool = False
    """Accept such a host."""
    port: int | None = None
    """None for the first free port from `FIRST_PORT`, 0 for any."""
    open_browser: bool = True
    read_only: bool = False
    path: str = "/"
    """The first page."""
    files: Path | None = None
    """DICOM files that are in no dataset, to show as a source of studies."""
    predictions: Path | None = None
    """File of `ichx predict` with probabilities of slices of `files`."""


@dataclass(frozen=True)
class Started:
    """A server that accepts connections."""

    url: str
    """The first page, with the token."""
    address: str
    """IP address on which it listens."""
    port: int
    exposed: str | None
    """The name or address at which other machines reach it; None for a loopback address."""


def serve(workspace: Workspace, options: ServeOptions, started: Callable[[Started], object]) -> int:
    """Serve `workspace` until SIGINT, SIGTERM or SIGHUP; return the number of the signal.

    Args:
        workspace: The workspace to show.
        options: How to serve it.
        started: Is called once the server accepts connections.

    Raises:
        ConflictError: The port is in use.
        InvalidInputError: The host is not an address of this machine, or one that needs `allow_network`.
        StorageError: The port needs more rights.
        StoreError: The store cannot be opened.
    """
    address = _resolve(options.host)
    exposed = not ipaddress.ip_address(address).is_loopback
    if exposed and not options.allow_network:
        raise InvalidInputError(
            f"{options.host} is not an address of this machine alone: others in its network reach it.",
            "Leave out --host and use `ssh -L`, or add --allow-network; see docs/ui.md.",
        )
    predictions = None if options.predictions is None else read_predicted(options.predictions)
    bound = _bind(address, options.port)
    try:
        site = Site(workspace, read_only=options.read_only, files=options.files, predictions=predictions)
    except BaseException:
        bound.close()
        raise
    try:
        port = bound.getsockname()[1]
        guard = Guard(_names(options.host, address), any_address=exposed)
        shown = _in_url(address)
        if address in ("0.0.0.0", "::"):
            shown = socket.gethostname()
        page = f"http://{shown}:{port}{options.path}{'&' if '?' in options.path else '?'}token="
        with suppress(OSError):
            os.nice(NICENESS)
        _allow_files()
        config = uvicorn.Config(
            create_app(site, guard),
            loop="asyncio",
            http="h11",  # it checks headers strictly, also those of responses
            log_level="critical",  # errors of handlers are logged by the app
            access_log=False,
            proxy_headers=False,  # there is no proxy: a request must not choose its scheme or address
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=0,
        )
        started(Started(page + guard.token, address, port, shown if exposed else None))
        if options.open_browser and _has_screen():
            # other users see the arguments of a browser
            url = page + guard.issue_single_use()
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
        return _run(uvicorn.Server(config), bound, site)
    finally:
        bound.close()
        site.close()


def _run(server: uvicorn.Server, bound: socket.socket, site: Site) -> int:
    """Serve until a stop signal; return its number. Open streams end at once."""
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        server.should_exit = True
        timer = threading.Timer(STOP_SECONDS, _abandon, (site, number))
        timer.daemon = True
        timer.start()

    with handle_signals(stop):  # uvicorn handles two of them itself, and repeats the signal after its end
        server.run(sockets=[bound])
    return received[0] if received else signal.SIGTERM


def _abandon(site: Site, number: int) -> None:
    """End the process although a handler still works, e.g. on a prediction: its browser has been disconnected."""
    site.close()
    os._exit(exit_code(number))


def exit_code(number: int) -> int:
    """Return the exit code after a stop signal. Ctrl-C is how a server is meant to end."""
    return 0 if number == signal.SIGINT else 128 + number


def _allow_files() -> None:
    """Raise the limit of open files: each connection is one, and the usual limit of 1,024 is soon reached."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bind(address: str, port: int | None) -> socket.socket:
    """Return a socket that listens on a port of `address`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for candidate in range(FIRST_PORT, FIRST_PORT + PORTS) if port is None else [port]:
        # With a protocol: asyncio sets TCP_NODELAY only then, and each answer would wait 40 ms without.
        bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((address, candidate))
            bound.listen(128)  # two servers can bind the same port, but only one can listen
        except OSError as error:
            bound.close()
            if error.errno == errno.EADDRINUSE:
                continue
            if isinstance(error, PermissionError):
                remedy = "Use a port from 1024 to 65535."
                raise StorageError(f"Port {candidate} needs more rights.", remedy) from error
            problem = f"Cannot listen on {address}, port {candidate}: {error.strerror}."
            raise InvalidInputError(problem, "Use an address of this machine.") from error
        return bound
    used = f"Port {port} is" if port is not None else f"The ports {FIRST_PORT} to {FIRST_PORT + PORTS - 1} are"
    raise ConflictError(f"{used} in use.", "Use `--port 0` for any free port, or end the other program.")


def _resolve(host: str) -> str:
    """Return the IP address of `host`."""
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError) as error:
        raise InvalidInputError(f"Unknown host: {host!r}.", "Use an address of this machine.") from error


def _names(host: str, address: str) -> frozenset[str]:
    """Return the accepted names in the header `Host`."""
    names = {host.lower(), _in_url(address)}
    if address in ("0.0.0.0", "::"):
        names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
    return LOOPBACK_NAMES | names


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def ssh_command(address: str, port: int) -> str | None:
    """Return the command that makes the server reachable from the machine the user sits at; None without ssh."""
    connection = os.environ.get("SSH_CONNECTION", "").split()
    if len(connection) != 4:
        return None
    login = connection[2]
    user = os.environ.get("USER") or "USER"
    forward = f"ssh -N -L {shlex.quote(f'{port}:{_in_url(address)}:{port}')}"  # shells expand brackets
    if "SLURM_JOB_ID" in os.environ:  # a node that is reached through the machine of the ssh session
        return f"{forward} -J {shlex.quote(f'{user}@{login}')} {shlex.quote(f'{user}@{socket.gethostname()}')}"
    return f"{forward} {shlex.quote(f'{user}@{login}')}"


def _has_screen() -> bool:
    """Return whether a browser opened here has a screen; a text browser would take over the terminal."""
    if "SSH_CONNECTION" in os.environ:
        return False
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
