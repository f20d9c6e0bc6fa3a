"""Everything that is run on the code: `nox` runs lint, types and tests; `nox -s demo` the demo.

The sessions run in the environment that nox itself is installed in (`pip install -e '.[dev]'`): torch with its CUDA
libraries weighs 6 GB, and no session changes what is installed, so that one environment serves them all.
"""

import sys
import tempfile
from importlib.util import find_spec

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "none"


@nox.session
def lint(session: nox.Session) -> None:
    """ruff: rules and format."""
    _python(session, "ruff", "check", ".")
    _python(session, "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict on the package."""
    _python(session, "mypy", "--strict", "ichx")


@nox.session
def tests(session: nox.Session) -> None:
    """The test suite; arguments after `--` go to pytest."""
    _python(session, "pytest", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """The demo in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        _python(session, "ichx", "demo", f"{folder}/demo")


def _python(session: nox.Session, module: str, *arguments: str) -> None:
    missing = [name for name in ("ichx", module) if find_spec(name) is None]
    if missing:
        session.error(f"{sys.executable} lacks {', '.join(missing)}: pip install -e '.[dev]' there, then run its nox")
    session.run(sys.executable, "-m", module, *arguments)
