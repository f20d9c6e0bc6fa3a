"""The wording of every command: help, normal output and a typical error, compared with the files in `golden/`.

`nox -s golden` rewrites the files. Values that differ between machines or runs are replaced by placeholders, runs of
spaces and table rules are shortened, and boxes that typer draws do not occur, so that only a change of wording shows.
Other tests assert codes and values, not wording.
"""

import os
import re
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from built_once import built_once
from conftest import SHORT, Program
from optuna_studies import fill, new_study, storage

from ichx.cli import output
from ichx.cli.reference import commands, help_text
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_version
from ichx.datasets.reviews import add_review
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.phantom.dicom_files import PhantomFiles, write_phantom
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import JobChange, JobDraft, ReviewDraft, open_store
from ichx.workspace import open_workspace

GOLDEN = Path(__file__).with_name("golden")
UPDATE = "UPDATE_GOLDEN" in os.environ
WIDTH = 240

CASES = {
    "init": ("init elsewhere", "init elsewhere", "init db/ichx.db/inner"),
    "demo": ("demo datasets",),
    "data add": (
        "data add more {train} --labels {labels}",
        "data add more {train} --labels {labels}",
        "data add more nowhere",
        "data add more {train} --format ct-ich",
        "data add more {train} --labels {sample}",
    ),
    "data list": ("data list",),
    "data show": ("data show ph", "data show ph-test", "data show hp"),
    "data check": ("data check ph", "data check hp"),
    "data sheet": ("data sheet ph --count 4 --out sheet.png", "data sheet ph --label fracture --out sheet.png"),
    "data phantom": (
        "data phantom synthetic --patients 1 --test-patients 1 --size 32 --seed 1",
        "data phantom experiments",
        "data phantom x --prevalence any --json",
    ),
    "data cache": ("data cache ph --size 48", "data cache ph", "data cache ph --verify", "data cache hp"),
    "data formats": ("data formats",),
    "data duplicates": ("data duplicates ph", "data duplicates ph --against hp"),
    "data series-rules": ("data series-rules",),
    "data mix": ("data mix mixed --of ph --of other", "data mix mixed --of ph --of hp", "data mix mixed --of ph"),
    "data pseudo": (
        "data pseudo guessed --of ph-test --by 2 --transductive --device cpu",
        "data pseudo guessed --of ph-test --by 2",
        "data pseudo guessed --of ph-test --by ensemble:x",
        "data pseudo guessed --of ph-test --by 2 --keep 'any=0.5'",
    ),
    "data folds": ("data folds ph", "data folds ph --name mine", "data folds ph-test"),
    "data reviews": ("data reviews ph", "data reviews other", "data reviews other --csv", "data reviews hp"),
    "data rm": ("data rm ph-test", "data rm other --yes", "data rm ph"),
    "plugin list": ("plugin list",),
    "plugin show": ("plugin show tiny_resnet", "plugin show tiny_resnext"),
    "exp new": (
        "exp new --plugin tiny_resnet --size 32 --dataset ph",
        "exp new --reference --dataset ph",
        "exp new --plugin gru_stack --members 1,2",
        "exp new --plugin gru_stack --members 1 --size 64",
        "exp new --plugin tiny_resnext --dataset ph",
        "exp new --plugin tiny_resnet --set stage.ful.lr=1 --dataset ph",
        "exp new --reference --size 32 --json",
    ),
    "exp external": (
        "exp external other --dataset ph --oof {labels} --test ph-test={sample}",
        "exp external other --dataset ph --oof {sample}",
        "exp external other --dataset ph --oof none.csv",
        "run last",
    ),
    "exp list": (
        "exp list",
        "exp list --where 'batch > 1000'",
        "exp list --columns number,plugin,stage.full.lr",
        "exp list --where 'sice > 1'",
    ),
    "exp show": ("exp show 1", "exp show 4 --recipe", "exp show 5", "exp show 99"),
    "exp diff": ("exp diff 1 2", "exp diff 1 4", "exp diff 1 99"),
    "exp history": ("exp history 2", "exp history 4", "exp history 1 --fold 7"),
    "exp log": ("exp log 4", "exp log 1 --fold 7"),
    "exp watch": ("exp watch --once",),
    "exp repro": ("exp repro 1", "exp repro 4", "exp repro 99"),
    "exp clone": ("exp clone 1 --set stage.full.lr=5e-4", "exp clone 1 --set lr=1"),
    "exp promote": ("run 6 --fold 0 --device cpu", "exp promote 6", "exp promote 6", "exp promote 1"),
    "exp name": ("exp name 1 wide", "exp name 99 wide"),
    "exp tag": ("exp tag 4 best", "exp tag 2", "exp tag 1 a,b"),
    "exp tags": ("exp tags",),
    "exp note": ("exp note 4 'weak on epidural'", "exp note 2", "exp note 1 ''"),
    "exp archive": ("exp archive 1 2", "exp archive 1 --undo", "exp archive 99"),
    "exp rm": ("exp rm 4", "ensemble --members 1,2", "exp rm 1 3", "exp rm 99"),
    "exp restore": ("exp restore 5", "exp restore 99"),
    "exp export": ("exp export 1 one.zip", "exp export 1 one.zip"),
    "exp import": ("exp export 1 one.zip", "exp import one.zip", "exp import none.zip"),
    "run": ("run 4 --fold 0 --device cpu", "run 4 --fold 0", "run 5", "run 99", "run 1 --weights none.pth"),
    "engine check": ("engine check slurm", "engine check slrum"),
    "jobs": ("jobs", "jobs --state queued", "jobs 99"),
    "jobs show": ("jobs show slurm:7_1", "jobs show slurm:8"),
    "jobs cancel": ("jobs cancel slurm:7_1", "jobs cancel 99"),
    "tune": (
        "tune 4 --trials 1 --device cpu",
        "tune 4 --trials 1",
        "tune 4 --trials 1 --fold 1",
        "tune 99",
        "tune 1 --search size=1..2",
    ),
    "tune show": ("tune show 1", "tune show 6", "tune show 2", "tune show 1 --study wide"),
    "tune space": ("tune space 4", "tune space 99"),
    "predict": (
        "predict 2 {one_file} --device cpu",
        "predict 2 {one_file} --device cpu --out new.csv",
        "predict 2 nowhere",
    ),
    "evaluate": ("evaluate 2 --dataset other --device cpu", "evaluate 2 --dataset ph", "evaluate 2 --dataset ph-test"),
    "export": ("export 2 --format safetensors --fold 0", "export 4"),
    "audit": ("audit 1", "audit 4"),
    "scores": ("scores 2", "scores 4"),
    "ensemble": (
        "ensemble --members 1,2,3 --method convex --smooth",
        "ensemble --top 4 --dataset hp",
        "ensemble --members 1,4",
    ),
    "ensemble list": ("ensemble list", "ensemble --members 1,2 --method mean --json", "ensemble list"),
    "ensemble show": (
        "ensemble --members 1,2 --method mean --json",
        "ensemble show 1",
        "ensemble show 2",
    ),
    "ensemble name": ("ensemble --members 1,2 --method mean --json", "ensemble name 1 pair", "ensemble name 2 pair"),
    "ensemble rm": ("ensemble --members 1,2 --method mean --json", "ensemble rm 1", "ensemble rm 1 --yes"),
    "ensemble submit": (
        "ensemble --members 1,2 --method mean --json",
        "ensemble submit 1 ph-test",
        "ensemble submit 1 ph",
    ),
    "ensemble export": (
        "ensemble --members 1,2 --method mean --json",
        "ensemble export 1 e.zip",
        "ensemble export 2 e.zip",
    ),
    "ensemble import": (
        "ensemble --members 1,2 --method mean --json",
        "ensemble export 1 e.zip",
        "ensemble import e.zip",
        "ensemble import none.zip",
    ),
    "submit check": (
        "submit check {sample} --sample {sample}",
        "submit check {labels} --sample {sample}",
        "submit check none.csv --sample {sample}",
        "submit check {sample}",
    ),
    "submit score": ("submit score {sample} --labels {labels}", "submit score {labels} --labels {labels} --label any"),
    "submit send": ("submit send {sample} --sample {sample}",),
    "report": ("report 1", "report 99"),
    "figures": ("figures 1 --out figures --label subdural", "figures 99 --out figures", "figures 1"),
    "card": ("card 1 --out card", "card 99"),
    "threshold": (
        "threshold 1",
        "threshold 1 --sensitivity 0.9",
        "threshold 1 --sensitivity 2",
        "threshold 1 --label subdural --remove",
        "threshold 1 --cost 3 --remove",
        "threshold 1 --prevalence 2",
    ),
    "recalibrate": (
        "recalibrate 1",
        "recalibrate 1 --dataset other --device cpu",
        "recalibrate 1 --name ours --remove",
        "recalibrate 1 --dataset ph",
        "recalibrate 1 --dataset other --method isotonic",
    ),
    "gc": ("gc", "gc --yes", "gc"),
    "ui": (
        "ui nowhere --no-browser",
        "ui --predictions {sample} --no-browser",
        "ui --host 0.0.0.0 --no-browser",
        "ui --port 99999 --no-browser",
    ),
    "store check": ("store check",),
    "store backup": ("store backup copy.db", "store backup db/ichx.db"),
    "store adopt": ("store adopt",),
    "store copy": ("store copy copied.db", "store copy db/ichx.db"),
    "store move": ("store move moved.db",),
    "store rebuild": ("store rebuild",),
    "store upgrade": ("store upgrade",),
    "store sql": ("store sql 'select number, name from experiment'", "store sql 'delete from experiment'"),
    "store schema": ("store schema tag", "store schema exp"),
}
"""Command lines per command; those of one command run one after another in a copy of `golden_root`."""

REPLACEMENTS = (
    (r"\d+ threads?, \w+; ", "THREADS; "),
    (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(\+\d\d:\d\d)?", "DATE"),
    (r"\b\d\d:\d\d:\d\d\b", "CLOCK"),
    (r"\b\d+ h \d\d min\b|\b\d+ min \d\d s\b|\b\d+ s\b", "DURATION"),
    (r"\b[\d,]+(\.\d)? (B|kB|MB|GB)\b", "SIZE"),
    (r"\bverified \d+ rows", "verified ROWS rows"),
    (r"\b\d+(\.\d+)?e[+-]\d\d\b", "SMALL"),
    (r"(?<![\w.])([+-](?=\d))?\d+\.\d{4,}", "FLOAT"),
    (r"\b0\.\d+\.\d+(\+[\w.-]+)?", "VERSION"),
    (r"\b\d+ files, SIZE", "FILES, SIZE"),
    (r"│ +\d+ % +│", "│ PERCENT │"),
    (r"\b[0-9a-f]{8,64}\b", "HEX"),
    (r"[▁▂▃▄▅▆▇█]+", "CURVE"),
    (r"[─━]{2,}", lambda found: found[0][0] * 2),
    (r"(?<=\S) {2,}", " "),
    (r"(?m) +$", ""),
)


@pytest.fixture(scope="session")
def golden_root(trained_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the trained workspace with all that commands print, to be read only.

    Experiments 4 (not run), 5 (in the trash) and 6 (a trial of a study of experiment 1), the dataset `other`, a tag
    and a note.
    """

    def build(folder: Path) -> Path:
        root = Path(shutil.copytree(trained_root, folder / "workspace"))
        other = write_phantom(folder / "other", patients=6, seed=2, size=64, prevalence={"any": 0.5})
        workspace, registry = open_workspace(root), load_registry()
        with open_store(workspace) as store, storage(workspace) as optuna_storage:
            settings = [*SHORT, "batch=8"]
            for name in ("new", "discarded"):
                new_experiment(
                    store,
                    registry,
                    ExperimentRequest(plugin="tiny_resnet", size=32, settings=settings, dataset="ph", name=name),
                )
            store.trash([5])
            parent = store.experiment(1)
            fill(store, parent, new_study(optuna_storage, parent), 24)
            store.change_tags(1, add=["best"], remove=[])
            store.add_note(1, "epidural is weak")
            drafts = [
                JobDraft(
                    "ichx-1", fold, "slurm", "fold", f"experiment 1, fold {fold}", f"experiments/1/fold-{fold}/run.log"
                )
                for fold in (0, 1)
            ]
            done, lost = (record.id for record in store.add_jobs(drafts))
            store.set_handles("ichx-1", ["slurm:7_0", "slurm:7_1"])
            store.update_jobs({done: JobChange("done", 0, seconds=75.0), lost: JobChange("lost")})
            project = Project(workspace, store)
            request = AddRequest("other", other.train, labels=other.train_labels, folds=2)
            version = add_dataset(project, request).version
            slice_id = str(load_version(workspace, version).slices["slice_id"][0])
            add_review(
                project, version, ReviewDraft(version.id, slice_id, "label wrong", "epidural", "=1+1, an artefact")
            )
        with closing(sqlite3.connect(root / "db" / "ichx.db")) as connection, connection:
            connection.execute(
                "UPDATE run SET code_version = '0.0.1', host = 'gpu1'"
            )  # instead of the state of this checkout
        return root

    return built_once(tmp_path_factory, "golden", build)


def normalize(text: str, places: dict[str, str]) -> str:
    """Return `text` with placeholders instead of paths and volatile values, without lines about the checkout."""
    for path, name in sorted(places.items(), key=lambda place: -len(place[0])):
        text = text.replace(path, name)
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    return "".join(
        f"{line}\n" for line in text.splitlines() if "code.diff" not in line and "check out commit" not in line
    )


def phantom_paths(phantom: PhantomFiles) -> dict[str, Path | None]:
    """Return the paths that the command lines of `CASES` contain, by placeholder."""
    assert phantom.test is not None
    return {
        "train": phantom.train,
        "labels": phantom.train_labels,
        "sample": phantom.sample_submission,
        "one_file": min(phantom.test.rglob("*.dcm")),
    }


@pytest.mark.parametrize("name", [name for _, name, _ in commands()])
def test_wording(
    name: str,
    golden_root: Path,
    phantom: PhantomFiles,
    tmp_path: Path,
    ichx: Program,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = Path(shutil.copytree(golden_root, tmp_path / "workspace"))
    for console in (output.console, output.err):
        monkeypatch.setattr(console, "_width", WIDTH)
    if name == "submit send" or name.startswith(("engine", "jobs")):
        monkeypatch.setenv("PATH", "")  # without `kaggle` and Slurm
    files = phantom_paths(phantom)
    places = {str(root): "WORKSPACE", str(phantom.folder): "PHANTOM", str(golden_root.parent / "other"): "OTHER"}
    parts = [help_text(name)]
    for line in CASES[name]:
        done = ichx(*shlex.split(line.format(**files)), cwd=root)
        assert "Traceback" not in done.err
        out, err = normalize(done.out, places), normalize(done.err, places)
        if "largest disagreements" in out:  # its rows depend on the machine
            out = out.partition("largest disagreements")[0]
        parts.append(f"$ ichx {line}\n{out}")
        parts.append(f"[standard error]\n{err}" if err else "")
        parts.append(f"[exit code {done.code}]\n" if done.code else "")
    found = "\n".join(part.rstrip("\n") + "\n" for part in parts if part)
    file = GOLDEN / f"{name.replace(' ', '-')}.txt"
    if UPDATE:
        GOLDEN.mkdir(exist_ok=True)
        file.write_text(found, encoding="utf-8")
    assert found == file.read_text(encoding="utf-8"), "if this change is intended, run: nox -s golden"


def test_every_file_belongs_to_a_command() -> None:
    names = {name for _, name, _ in commands()}
    assert set(CASES) == names
    assert {path.stem for path in GOLDEN.iterdir()} == {name.replace(" ", "-") for name in names}
