"""The project's checks: `nox` runs lint, types, docs and tests; `nox --list` shows the others.

The sessions share the environment that contains nox (`pip install -e '.[dev]'`), because torch with its CUDA libraries
needs 6 GB. No session installs anything into it; `minimum` creates another one.
"""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.options.sessions = ["lint", "types", "docs", "tests"]
nox.options.default_venv_backend = "none"

PARALLEL = ("-n", "2", "--dist", "loadfile")
"""Options of pytest-xdist. Fixtures of a module are built once: one worker runs all tests of a file."""


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
    """Run the test suite on two cores; arguments after `--` go to pytest, e.g. `-n 0` for one process."""
    _python(session, "pytest", *PARALLEL, *session.posargs)


@nox.session
def fast(session: nox.Session) -> None:
    """Run the quick tests; arguments after `--` go to pytest."""
    _python(session, "pytest", "-q", "-m", "not slow", *PARALLEL, *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the test suite, measure each test and rewrite `tests/slow_tests.txt`."""
    _python(session, "pytest", "-q", *PARALLEL, env={"RECORD_SLOW_TESTS": "1"})


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


@nox.session(venv_backend="venv", reuse_venv=True)
def minimum(session: nox.Session) -> None:
    """Run a part of the tests with the oldest supported versions, in a separate environment (several GB)."""
    constraints = Path(session.create_tmp()) / "minimum.txt"
    constraints.write_text("\n".join(_minimum_versions()) + "\n", encoding="utf-8")
    session.install("--upgrade", "pip")
    session.install(
        "--constraint", str(constraints), "--editable", ".", "pytest>=8.3", "hypothesis>=6.115", "setuptools>=77"
    )
    tests = session.posargs or [
        "tests/cache",
        "tests/cli",
        "--ignore=tests/cli/test_golden.py",  # typer and rich format the output
        "--ignore=tests/cli/test_reference.py",
        "tests/ct",
        "tests/loading",
        "tests/plugins",
        "tests/store",
        "tests/training",
    ]
    session.run("python", "-m", "pytest", "-q", *tests)


@nox.session
def demo(session: nox.Session) -> None:
    """Run `ichx demo` in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        _python(session, "ichx", "demo", f"{folder}/demo")


@nox.session
def screenshots(session: nox.Session) -> None:
    """Rewrite all pictures in `docs/images`, from a new demo (five minutes); needs chromium."""
    with tempfile.TemporaryDirectory() as folder:
        _python(session, "ichx", "demo", f"{folder}/ichx-demo")
        session.run(sys.executable, "docs/make_screenshots.py", f"{folder}/ichx-demo")
    session.run(sys.executable, "docs/draw_phantom.py")


def _minimum_versions() -> list[str]:
    """Return the lower bound of each dependency in `pyproject.toml` as a constraint."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    lines = []
    for requirement in map(Requirement, project["dependencies"]):
        lines += [f"{requirement.name}=={bound.version}" for bound in requirement.specifier if bound.operator == ">="]
    return lines


def _python(session: nox.Session, module: str, *arguments: str, env: dict[str, str] | None = None) -> None:
    missing = [name for name in ("ichx", module) if find_spec(name) is None]
    if missing:
        session.error(f"{sys.executable} lacks {', '.join(missing)}: pip install -e '.[dev]' there, then run its nox")
    session.run(sys.executable, "-m", module, *arguments, env=env)
