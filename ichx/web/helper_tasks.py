"""The tasks of a helper process of the server, and its loop: `python -m ichx.web.helper_tasks`."""

import json
import os
import select
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ichx.child_processes import watch_parent
from ichx.errors import IchxError, as_user_error
from ichx.project import Project
from ichx.store import open_store
from ichx.web import compared, described, operating
from ichx.workspace import find_workspace

IDLE_SECONDS: Final = 120.0
"""Time without a request after which the process ends."""
NICENESS: Final = 10

Report = Callable[[str, int, int], None]


def index_version(project: Project, report: Report, dataset: str, number: int, folder: str) -> None:
    """Write the index of a version of a dataset into `folder`."""
    import numpy as np
    import pandas as pd

    from ichx.cache.hu_cache import slices_digest
    from ichx.datasets.catalog import usable_slices
    from ichx.datasets.dataset import load_catalog, load_folds
    from ichx.datasets.fold_labels import read_fold_labels
    from ichx.datasets.fold_masks import masked_slices, masks_of_parts
    from ichx.datasets.mask_png import MASKS_FILE
    from ichx.datasets.mixture import with_parts
    from ichx.datasets.study_index import IndexInput, write_index

    version = project.store.version(dataset, number)
    catalog = load_catalog(project.workspace, version)
    slices = with_parts(usable_slices(catalog), version)
    folds = load_folds(project.workspace, version, version.folds[0], slices) if version.folds else None
    masked = None
    if version.summary.get("masks"):
        known = pd.read_parquet(project.workspace.root / version.path / MASKS_FILE, columns=["slice_id"])
        masked = np.asarray(slices["slice_id"].isin(known["slice_id"]))
    pseudo, pseudo_masked = read_fold_labels(project.workspace, version), None
    if by_fold := masks_of_parts(version):
        pseudo_masked = np.asarray(slices["slice_id"].isin(masked_slices(project.workspace, by_fold)))
    ranges = None if pseudo is None else pseudo.ranges(slices["slice_id"].to_numpy(object))
    excluded = catalog[catalog["defect"].notna()]
    given = IndexInput(slices, excluded, slices_digest(slices), folds, masked, ranges, pseudo_masked)
    write_index(Path(folder), given)


def index_files(project: Project, report: Report, source: str, folder: str) -> None:
    """Write the index of files that are in no dataset into `folder`."""
    from ichx.cache.hu_cache import slices_digest
    from ichx.datasets.catalog import usable_slices
    from ichx.datasets.new_version import require_usable_slices
    from ichx.datasets.study_index import IndexInput, write_index
    from ichx.inference.file_catalog import scan_files

    files = scan_files(Path(source), lambda done, total: report("reading headers", done, total))
    catalog = files.catalog(_key(project))
    require_usable_slices(Path(source), catalog)
    slices = usable_slices(catalog)
    excluded = catalog[catalog["defect"].notna()]
    write_index(Path(folder), IndexInput(slices, excluded, slices_digest(slices)))


def predict_worklist(
    project: Project, report: Report, dataset: str, number: int, of: str, index: str, folder: str
) -> dict[str, Any]:
    """Write what `of` predicts for a version, in the order of its index, into `folder`; return facts about it."""
    import numpy as np

    from ichx.datasets.study_index import StudyIndex
    from ichx.evaluation.worklist import labels_to_pool
    from ichx.evaluation.worklist_predictions import aligned, suggested_thresholds, version_predictions
    from ichx.labels import LABELS

    found = version_predictions(project, of, project.store.version(dataset, number))
    slices = StudyIndex(Path(index))
    predicted = aligned(found, slices.column("slice_id"))
    np.save(Path(folder) / "predicted.npy", predicted)
    labels = np.column_stack([slices.column(label) for label in LABELS])
    first = slices.studies["first"].to_numpy()
    truth = labels_to_pool(labels, slices.study_labels())
    return {
        "predicted": int(np.isfinite(predicted).all(axis=1).sum()),
        "out_of_fold": found.out_of_fold,
        "note": found.note,
        "thresholds": suggested_thresholds(labels, predicted, first, truth),
    }


def heat(
    project: Project,
    report: Report,
    experiment: int,
    fold: int,
    masks: bool,
    dataset: str,
    source: str,
    index: str,
    slice_id: str,
    out: str,
) -> None:
    """Write the heat maps of a slice, `(6, h, w)` float32, to the file `out`; see `ichx.report.slice_heat`."""
    import numpy as np

    from ichx.datasets.study_index import StudyIndex
    from ichx.report.slice_heat import SliceToExplain, slice_heat

    opened = StudyIndex(Path(index))
    row = opened.slice(slice_id)
    assert row is not None
    given = SliceToExplain(dataset, opened.digest, Path(source), opened.frame(row["study"]), slice_id)
    np.save(out, slice_heat(project, experiment, fold, given, masks=masks))


def predict(
    project: Project, report: Report, of: str, source: str, index: str, study: str | None, out: str
) -> dict[str, Any]:
    """Write the predictions of a study (None: of all) that is in no dataset to `out`.

    See `ichx.inference.predict_study`.
    """
    import shutil
    from dataclasses import asdict

    from ichx.datasets.study_index import StudyIndex
    from ichx.evaluation.study_curves import parse_predictor
    from ichx.inference.predict_study import predict_study
    from ichx.training.callbacks import Callbacks

    class Reporting(Callbacks):
        def phase(self, name: str, done: int, total: int) -> None:
            report(name, done, total)

    slices = StudyIndex(Path(index)).frame(study)
    found = predict_study(project, parse_predictor(of), Path(source), slices, Path(out), Reporting())
    for folder in Path(out).parent.iterdir():
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)  # its pixels
    return asdict(found)


TASKS: Final[Mapping[str, Callable[..., Any]]] = {
    "index_version": index_version,
    "index_files": index_files,
    "heat": heat,
    "predict": predict,
    "predict_worklist": predict_worklist,
    "describe_version": described.describe_version,
    "describe_ensemble": described.describe_ensemble,
    "compare": compared.compare,
    "score_experiment": described.score_experiment,
    "score_ensemble": described.score_ensemble,
    "score_subgroups": described.score_subgroups,
    "describe_operating": operating.describe_operating,
}
"""By name. A task receives the project, a function for its progress, and the arguments of the request."""


def main() -> None:
    """Answer requests on standard input until it closes or none comes for `IDLE_SECONDS`."""
    watch_parent()
    os.nice(NICENESS)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries may print

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    workspace = find_workspace()
    while select.select([0], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        request = json.loads(line)
        try:
            with open_store(workspace) as store:
                result = TASKS[request["task"]](
                    Project(workspace, store),
                    lambda what, done, total: answer({"progress": [what, done, total]}),
                    **request["arguments"],
                )
            answer({"result": result})
        except IchxError as error:
            answer({"error": error.to_dict()})
        except OSError as error:
            answer({"error": as_user_error(error).to_dict()})


def _key(project: Project) -> bytes:
    """Return the key of the hashes of ids; a temporary one in a workspace that cannot be written."""
    try:
        return project.workspace.privacy_key()
    except OSError:
        return os.urandom(32)


if __name__ == "__main__":
    main()
