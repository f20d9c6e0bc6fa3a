"""The project's checks: `nox` runs lint, types, docs and tests; `nox --list` shows the others.

The sessions share the environment that contains nox (`pip install -e '.[dev]'`), because torch with its CUDA libraries
needs 6 GB. No session installs anything into it.
"""

import sys
import tempfile
from importlib.util import find_spec

import nox

nox.options.sessions = ["lint", "types", "docs", "tests"]
nox.options.default_venv_backend = "none"


@nox.session
def lint(session: nox.Session) -> None:
    """Check rules and format with ruff."""
    _python(session, "ruff", "check", ".")
    _python(session, "ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types of the package with mypy --strict."""
    _python(session, "mypy", "--strict", "ichx")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the docs site in `site/` (mkdocs, strict); `nox -s docs -- serve` serves it while you edit."""
    session.env["NO_MKDOCS_2_WARNING"] = "1"
    _python(session, "mkdocs", *(session.posargs or ["build", "--strict"]))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite; arguments after `--` go to pytest."""
    _python(session, "pytest", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the test suite under coverage.py, child processes included, and print a report."""
    _python(session, "coverage", "erase")
    _python(session, "coverage", "run", "-m", "pytest", *session.posargs)
    _python(session, "coverage", "combine", "--quiet")
    _python(session, "coverage", "report")


@nox.session
def golden(session: nox.Session) -> None:
    """Rewrite what is generated from the commands: the golden files of their output and two pages of the docs."""
    _python(session, "ichx.cli.reference", "docs")
    _python(session, "pytest", "-q", "tests/cli/test_golden.py", env={"UPDATE_GOLDEN": "1"})


@nox.session
def demo(session: nox.Session) -> None:
    """Run `ichx demo` in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        _python(session, "ichx", "demo", f"{folder}/demo")


def _python(session: nox.Session, module: str, *arguments: str, env: dict[str, str] | None = None) -> None:
    missing = [name for name in ("ichx", module) if find_spec(name) is None]
    if missing:
        session.error(f"{sys.executable} lacks {', '.join(missing)}: pip install -e '.[dev]' there, then run its nox")
    session.run(sys.executable, "-m", module, *arguments, env=env)
