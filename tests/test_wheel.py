"""The wheel contains all that an installed ichx needs: data files, migrations, templates, entry points."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the installed wheel, and nothing else of ichx."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a build writes into its source tree
    shutil.copytree(ROOT / "ichx", source / "ichx", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    built = subprocess.run(
        [*pip, "wheel", "--no-deps", "--wheel-dir", str(folder), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("ichx-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def run(site: Path, cwd: Path, *arguments: str) -> str:
    """Run the installed program away from the source tree."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ICHX_")}
    environment["PYTHONPATH"] = str(site)
    done = subprocess.run(
        [sys.executable, "-m", "ichx", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_program_does_a_complete_job(site: Path, tmp_path: Path) -> None:
    where = [sys.executable, "-c", "import ichx; print(ichx.__file__)"]
    found = subprocess.run(
        where, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(site)
    run(site, tmp_path, "data", "phantom", "files", "--patients", "6", "--seed", "1", "--size", "64")
    run(site, tmp_path, "init", "workspace")
    workspace = tmp_path / "workspace"
    assert "resnext101_wsl" in run(site, workspace, "plugin", "list")
    run(
        site,
        workspace,
        "data",
        "add",
        "ph",
        "../files/stage_2_train",
        "--labels",
        "../files/stage_2_train.csv",
        "--folds",
        "2",
    )
    settings = [f"--set=stage.{name}.epochs=1" for name in ("balanced", "rebalanced", "full")]
    run(site, workspace, "exp", "new", "--plugin", "tiny_resnet", "--size", "32", *settings)
    run(site, workspace, "run", "1", "--device", "cpu")
    run(site, workspace, "report", "1")
    page = (workspace / "experiments" / "1" / "report.html").read_text(encoding="utf-8")
    assert "<style" in page
    assert "<script" in page
