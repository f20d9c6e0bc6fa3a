"""Fixtures for the whole suite: real CT data, a phantom on disk, a trained workspace, and the program itself."""

import importlib.util
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest
from built_once import built_once
from hypothesis import settings

pytest_plugins = ["slow_tests", "web_site", "report_browser", "fake_studies", "mixed_sites"]

settings.register_profile("any speed", deadline=None)  # a busy machine fails no test
settings.load_profile("any speed")

# A shell starts background jobs with Ctrl-C ignored, and children inherit that: the tests of signals need them back.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it

if TYPE_CHECKING:
    from ichx.phantom.dicom_files import PhantomFiles
    from ichx.project import Project
    from ichx.store import Store
    from ichx.workspace import Workspace

os.environ.pop("COLUMNS", None)  # pytest-xdist sets it; the width of the program's output is fixed when it is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny networks train faster alone, and the suite shares its cores

SHORT = ("stage.balanced.epochs=1", "stage.rebalanced.epochs=1", "stage.full.epochs=1", "precision=fp32")
"""Settings of a training that is over in a second, and computes alike on every CPU."""

SCRATCH = shutil.ignore_patterns(".scratch-*")
"""Folders that a command of another worker of pytest-xdist may have in a shared workspace while it predicts."""

TRAINED = (
    # (plugin, settings): short, different from each other, and the first with rates that change within its stages.
    (
        "tiny_resnet",
        (
            "stage.balanced.epochs=3",
            "stage.balanced.lr=4e-3",
            "stage.balanced.milestones=[1, 2]",
            "stage.balanced.gamma=0.5",
            "stage.rebalanced.epochs=1",
            "stage.rebalanced.lr=2e-3",
            "stage.full.epochs=2",
            "stage.full.lr=1e-3",
            "stage.full.scheduler=multistep",
            "stage.full.milestones=[1]",
            "stage.full.gamma=0.3",
            "precision=fp32",
        ),
    ),
    ("tiny_efficientnet", SHORT),
    ("tiny_byobnet", SHORT),
)
"""The experiments 1, 2 and 3 of the workspace `trained`."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> dict[str, Any]:
        """The error that a command with `--json` printed: `code`, `problem`, `remedy`."""
        return json.loads(self.err.splitlines()[-1])["error"]

    def check_error(self, code: str, *values: str) -> None:
        """Assert that the command, called with `--json`, failed with the error `code`, whose problem has `values`."""
        assert (self.code, self.out) == (2 if code == "usage" else 1, ""), self.err
        assert self.error["code"] == code, self.error
        for value in values:
            assert value in self.error["problem"], self.error
        assert self.error["remedy"]


Program = Callable[..., Outcome]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real CT data; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("ICHX_TEST_DATA", default)).resolve()
    if not (folder / "rsna_mini").is_dir():
        pytest.skip(f"no real CT data at {folder}; set ICHX_TEST_DATA")
    return folder


_TESTS = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def _no_processes_for_few_files() -> Iterator[None]:
    """Work in this process unless a test requests processes: starting them takes longer than a phantom."""
    from ichx import worker_pool
    from ichx.cache import build, local_copy  # noqa: F401  # these modules keep the real `core_count`
    from ichx.jobs import node_probe, resources  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker_pool, "core_count", lambda: 1)
        yield


@pytest.fixture(autouse=True)
def _no_inherited_workspace(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the user's own workspace, store and preferences out of the tests."""
    number = next(_TESTS)
    for name in ("CONFIG", "STATE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path_factory.getbasetemp() / f"{name.lower()}-{number}"))
    monkeypatch.delenv("ICHX_WORKSPACE", raising=False)
    monkeypatch.delenv("ICHX_STORE", raising=False)
    monkeypatch.delenv("ICHX_CACHE_LOCAL", raising=False)
    monkeypatch.delenv("ICHX_DEBUG", raising=False)


@pytest.fixture
def workspace(tmp_path: Path) -> "Workspace":
    """Return a new workspace."""
    from ichx.workspace import init_workspace

    return init_workspace(tmp_path / "workspace")


@pytest.fixture
def store(workspace: "Workspace") -> "Iterator[Store]":
    """Yield the store of `workspace`."""
    from ichx.store import open_store

    with open_store(workspace) as opened:
        yield opened


@pytest.fixture
def ichx(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    """Return `ichx(*arguments, cwd)`: the program's `main` in this process, with its exit code and output."""
    from ichx.cli.app import main

    def run(*arguments: object, cwd: Path) -> Outcome:
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(sys, "argv", ["ichx", *map(str, arguments)])
        capfd.readouterr()
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        out, err = capfd.readouterr()
        assert isinstance(code, int)
        return Outcome(code, out, err)

    return run


@pytest.fixture
def intervals_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show intervals although the trained phantom has few patients."""
    monkeypatch.setattr("ichx.evaluation.patient_sums.MIN_PATIENTS", 5)
    monkeypatch.setattr("ichx.evaluation.bootstrap.MIN_IN_CLASS", 5)
    monkeypatch.setattr("ichx.evaluation.patient_sums.MIN_IN_CLASS", 5)


def clean_environment(**extra: str) -> dict[str, str]:
    """Return the environment of a process of its own: no workspace, no store, one thread."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ICHX_")}
    return kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | extra


@pytest.fixture(scope="session")
def ichx_process() -> Program:
    """Return `ichx_process(*arguments, cwd)`: the program in a process of its own."""

    def run(*arguments: object, cwd: Path, **extra: str) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "ichx", *map(str, arguments)],
            cwd=cwd,
            env=clean_environment(**extra),
            capture_output=True,
            text=True,
            timeout=900,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def phantom(tmp_path_factory: pytest.TempPathFactory) -> "PhantomFiles":
    """Return 8 labelled and 2 test patients of 64 px on disk, to be read only."""
    from ichx.phantom.dicom_files import write_phantom

    def build(folder: Path) -> "PhantomFiles":
        return write_phantom(folder / "files", patients=8, seed=1, size=64, test_patients=2, prevalence={"any": 0.4})

    return built_once(tmp_path_factory, "phantom", build)


@pytest.fixture(scope="session")
def dataset_root(phantom: "PhantomFiles", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with the phantom as dataset `ph` (2 folds) and its test set `ph-test`, to be read only."""
    from ichx.datasets.add import AddRequest, add_dataset
    from ichx.project import Project
    from ichx.store import open_store
    from ichx.workspace import init_workspace

    def build(folder: Path) -> Path:
        assert phantom.test is not None
        workspace = init_workspace(folder / "workspace")
        with open_store(workspace) as store:
            project = Project(workspace, store)
            add_dataset(project, AddRequest("ph", phantom.train, labels=phantom.train_labels, folds=2))
            add_dataset(project, AddRequest("ph-test", phantom.test, test_of="ph", sample=phantom.sample_submission))
        return workspace.root

    return built_once(tmp_path_factory, "dataset", build)


@pytest.fixture(scope="session")
def trained_root(dataset_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of that workspace in which the experiments `TRAINED` are registered and done, to be read only."""
    from ichx.experiments.register import ExperimentRequest, new_experiment
    from ichx.experiments.run import run_experiment
    from ichx.plugins import load_registry
    from ichx.project import Project
    from ichx.store import open_store
    from ichx.workspace import open_workspace

    def build(folder: Path) -> Path:
        root = Path(shutil.copytree(dataset_root, folder / "workspace"))
        workspace, registry = open_workspace(root), load_registry()
        with open_store(workspace) as store:
            for plugin, settings in TRAINED:
                made = new_experiment(store, registry, ExperimentRequest(plugin=plugin, size=32, settings=settings))
                run_experiment(Project(workspace, store, registry), made.number)
        return root

    return built_once(tmp_path_factory, "trained", build)


@pytest.fixture
def dataset_copy(dataset_root: Path, tmp_path: Path) -> Path:
    """Return a workspace with the datasets `ph` and `ph-test`, and nothing trained, of the test's own."""
    return Path(shutil.copytree(dataset_root, tmp_path / "workspace", ignore=SCRATCH))


@pytest.fixture
def trained_copy(trained_root: Path, tmp_path: Path) -> Path:
    """Return the trained workspace, as a copy of the test's own."""
    return Path(shutil.copytree(trained_root, tmp_path / "workspace", ignore=SCRATCH))


@pytest.fixture(scope="session")
def killed_runs() -> ModuleType:
    """Return the benchmark's module of runs that are killed."""
    file = Path(__file__).parents[1] / "benchmarks" / "killed_runs.py"
    spec = importlib.util.spec_from_file_location("killed_runs", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(trained_copy: Path) -> "Iterator[Project]":
    """Return the open project of `trained_copy`."""
    from ichx.project import Project
    from ichx.store import open_store
    from ichx.workspace import open_workspace

    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        yield Project(workspace, store)
