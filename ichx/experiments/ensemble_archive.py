"""Moves an ensemble with its members to another workspace as one file.

The file is a zip, without compression, of the ensemble's files and the archives of its members, which
`archive_export` wrote and `archive_import` checks. It is not trusted: scores are computed again, and after an error
nothing is left behind.
"""

import dataclasses
import json
import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ichx import __version__
from ichx.errors import ChangedDataError, ConflictError, CorruptFileError, IchxError
from ichx.evaluation.blend_record import BlendChoice, BlendRecord
from ichx.evaluation.ensemble import BLEND_FILE
from ichx.evaluation.ensemble_audit import FILE_TOLERANCE, in_sample_score, saved_score
from ichx.evaluation.ensemble_file import (
    ARRAYS_FILE,
    MODEL_FILE,
    EnsembleModel,
    ModelMember,
    load_model,
    read_model,
    write_model,
)
from ichx.evaluation.member_outputs import member_id
from ichx.evaluation.predictions import OOF_FILE
from ichx.evaluation.recalibration_file import read_recalibrations
from ichx.evaluation.stored_members import check_networks, member_problems
from ichx.evaluation.threshold_file import read_thresholds
from ichx.experiment_files import RECALIBRATIONS_FILE, THRESHOLDS_FILE
from ichx.experiments.archive_export import (
    PARTS,
    WRITE_REMEDY,
    ExportedArchive,
    archive_experiment,
    remove_old_drafts,
)
from ichx.experiments.archive_file import ArchiveKind, OpenArchive, open_archive
from ichx.experiments.archive_import import import_experiment
from ichx.experiments.archive_record import record_number
from ichx.files import atomic_write, check_suffix, check_writable, write_text
from ichx.store import EnsembleDraft, EnsembleMember
from ichx.text import escape

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Ensemble

FORMAT: Final = 1
INDEX: Final = "ensemble.json"
_MEMBER = re.compile(
    r"ensemble\.json|model\.json|model\.npz|oof\.parquet|thresholds\.json|recalibrations\.json|members/\d{1,9}\.zip"
)
KIND = ArchiveKind(
    "ensemble",
    INDEX,
    _MEMBER,
    (FORMAT,),
    compressed=False,
    remedy="Use a file that `ichx ensemble export` wrote.",
)


@dataclass(frozen=True)
class ImportedEnsemble:
    """An imported ensemble."""

    number: int
    was: int
    """Its number in the archive."""
    members: dict[int, int]
    """The number here of each member, by its number in the archive."""
    present: tuple[int, ...]
    """Those of the members that this workspace had already, by their numbers here."""
    left_out: tuple[str, ...]


def export_ensemble(project: "Project", number: int, target: Path) -> ExportedArchive:
    """Write ensemble `number` with its members and their weights to the new file `target`.

    Raises:
        NotReadyError: It has no stored model.
        InvalidInputError: `target` has the suffix of another format.
        ConflictError: `target` exists, or a member is running.
        ChangedDataError: Its files or members have changed since it was blended.
        StorageError: `target` cannot be written.
    """
    check_suffix(target, "an archive", (".zip",))
    ensemble = project.store.ensemble(number)
    model = read_model(project.workspace, ensemble)
    check_networks(project, ensemble, model)
    if target.exists():
        raise ConflictError(f"{target} exists already.", "Choose another file name.")
    check_writable(target, "the archive", remedy=WRITE_REMEDY)
    remove_old_drafts(target.parent)
    folder = project.workspace.ensemble_dir(number)
    numbers = _with_inputs(model.used)
    index = {
        "format": FORMAT,
        "ichx": __version__,
        "number": number,
        "name": ensemble.name,
        "model": ensemble.digest,
        "score": ensemble.score,
        "nested_score": ensemble.nested_score,
        "weights": [[m.experiment, m.weight, m.score] for m in ensemble.members],
        "members": numbers,
    }
    with (
        atomic_write(target, "the archive", remedy=WRITE_REMEDY) as draft,
        tempfile.TemporaryDirectory(dir=target.parent, prefix=PARTS) as place,
        zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive,
    ):
        archive.writestr(INDEX, json.dumps(index, indent=1) + "\n")
        for name in (MODEL_FILE, ARRAYS_FILE, OOF_FILE):
            if not (folder / name).is_file():
                raise ChangedDataError(f"{folder / name} is gone.", "Blend the members again.")
            archive.write(folder / name, name)
        kept = [name for name in (THRESHOLDS_FILE, RECALIBRATIONS_FILE) if (folder / name).is_file()]
        for name in kept:
            archive.write(folder / name, name)
        for member in numbers:
            part = Path(place) / f"{member}.zip"
            archive_experiment(project, member, part, weights=True)
            archive.write(part, f"members/{member}.zip")
            part.unlink()
    return ExportedArchive(target, target.stat().st_size, 4 + len(kept) + len(numbers))


def import_ensemble(project: "Project", file: Path) -> ImportedEnsemble:
    """Register the ensemble in `file` and those of its members that this workspace lacks, under new numbers.

    Raises:
        CorruptFileError: The file is no archive of an ensemble, is damaged or hostile.
        UnsupportedError: The file is that of a newer version of ichx.
        ChangedDataError: This workspace has a member with other weights or predictions.
        ConflictError: A member is in the trash of this workspace.
        NotReadyError: No dataset of this workspace has the labels and folds of the members.
        NotFoundError: The file or the plugin of a member does not exist.
        StorageError: The workspace cannot be written.
    """
    added: list[int] = []
    try:
        with open_archive(project, file, KIND) as archive:
            for member in archive.zip.infolist():
                archive.extract(member)
            return _import(project, archive, file, added)
    except BaseException:
        for number in reversed(added):  # a sequence experiment before its members
            _remove(project, number)
        raise


def _with_inputs(members: tuple[ModelMember, ...]) -> list[int]:
    """Return the numbers of `members` and of the experiments that they read, those first."""
    found: dict[int, None] = {}
    for member in members:
        found |= dict.fromkeys([*_with_inputs(member.members), member.experiment])
    return list(found)


def _import(project: "Project", archive: OpenArchive, file: Path, added: list[int]) -> ImportedEnsemble:
    """Import the members, appending their numbers to `added`, and then the ensemble."""
    index, folder = archive.index, archive.folder
    was = record_number(index["number"])
    model = load_model(folder, str(index["model"]), "Export the ensemble again.")
    expected = _with_inputs(model.used)
    if [int(number) for number in index["members"]] != expected:
        raise ValueError("its members are not those of the model")
    here: dict[int, int] = {}
    present: list[int] = []
    left_out: list[str] = []
    for member in expected:
        part = folder / "members" / f"{member}.zip"
        if not part.is_file():
            raise ValueError(f"the archive of member {member} is missing")
        imported = import_experiment(project, part, reuse=True)
        here[member] = imported.number
        left_out += imported.left_out
        if imported.present:
            present.append(imported.number)
        else:
            added.append(imported.number)
    renumbered = _renumbered(project, model, here, file)
    ensemble = _register(project, index, renumbered, folder, here, file)
    return ImportedEnsemble(ensemble.number, was, here, tuple(present), tuple(left_out))


def _renumbered(project: "Project", model: EnsembleModel, here: Mapping[int, int], file: Path) -> EnsembleModel:
    """Return `model` with the numbers and ids of its members in this workspace, after comparing their digests."""
    problems: list[str] = []

    def renumber(member: ModelMember) -> ModelMember:
        if member.experiment not in here:  # a candidate without weight
            return replace(member, experiment=0, members=())
        experiment = project.store.experiment(here[member.experiment])
        moved = replace(
            member,
            experiment=experiment.number,
            name=experiment.name,
            id=member_id(experiment),
            members=tuple(map(renumber, member.members)),
        )
        problems.extend(member_problems(project, moved, model))
        return moved

    members = tuple(map(renumber, model.members))
    if problems:
        raise ChangedDataError(
            "\n".join(f"The members of the ensemble in {file} differ from those here: {text}." for text in problems),
            "Export the ensemble again, or remove that experiment here.",
        )
    return replace(model, members=members, record=_renumbered_record(model.record, here))


def _renumbered_record(record: BlendRecord, here: Mapping[int, int]) -> BlendRecord:
    def choice(of: BlendChoice) -> BlendChoice:
        return replace(
            of,
            members=tuple(here[n] for n in of.members if n in here),
            dropped=tuple(here[n] for n in of.dropped if n in here),
            weights={here[n]: weight for n, weight in of.weights.items() if n in here},
        )

    return replace(
        record,
        names={here[n]: escape(name, lines=True) for n, name in record.names.items() if n in here},
        choice=choice(record.choice),
        fold_choices=tuple(map(choice, record.fold_choices)),
        labels=tuple(
            replace(row, weights=row.weights and {here[n]: weight for n, weight in row.weights.items() if n in here})
            for row in record.labels
        ),
        selected=tuple(replace(m, experiment=here[m.experiment]) for m in record.selected if m.experiment in here),
        submissions=(),
        notes=(),
    )


def _register(
    project: "Project",
    index: Mapping[str, Any],
    model: EnsembleModel,
    folder: Path,
    here: Mapping[int, int],
    file: Path,
) -> "Ensemble":
    """Write the ensemble's files and record it. Its scores are computed from the members' and the saved predictions."""
    first = project.store.experiment(model.used[0].experiment)
    version = project.store.version_by_id(first.version_id)
    score, data, _ = in_sample_score(project, model, version)
    nested = None if index["nested_score"] is None else saved_score(folder / OOF_FILE, model, data)
    for what, recorded, found in (("score", index["score"], score), ("nested score", index["nested_score"], nested)):
        if found is not None and not abs(float(recorded) - found) <= FILE_TOLERANCE:
            raise CorruptFileError(f"{file} records the {what} {recorded}, but it is {found}.", KIND.remedy)
    number = project.store.reserve_ensemble()
    target = project.workspace.ensemble_dir(number)
    try:
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / OOF_FILE, target / OOF_FILE)
        if read_thresholds(folder / THRESHOLDS_FILE):  # checks the content
            shutil.move(folder / THRESHOLDS_FILE, target / THRESHOLDS_FILE)
        if read_recalibrations(folder / RECALIBRATIONS_FILE):
            shutil.move(folder / RECALIBRATIONS_FILE, target / RECALIBRATIONS_FILE)
        record = dataclasses.asdict(model.record)
        write_text(target / BLEND_FILE, json.dumps(record, indent=2) + "\n", "the ensemble")
        draft = EnsembleDraft(
            dataset=version.dataset,
            version_id=version.id,
            fold_digest=model.fold_digest,
            tta=model.tta,
            method=model.fitted.method,
            score=score,
            nested_score=None if nested is None else float(index["nested_score"]),
            partial=None if len(model.folds) == model.k else f"{len(model.folds)} of {model.k} folds",
            submissions=(),
            members=tuple(EnsembleMember(here[int(n)], float(w), float(s)) for n, w, s in index["weights"]),
            average=model.average,
            digest=write_model(target, model),
            name=None if index["name"] is None else escape(str(index["name"]), lines=True)[:200],
        )
        return project.store.add_ensemble(draft, number)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _remove(project: "Project", number: int) -> None:
    """Remove an experiment that a failed import has added."""
    try:
        project.store.trash([number])
        project.store.purge(number)
    except IchxError:
        return  # it stays as an ordinary experiment
    shutil.rmtree(project.workspace.experiment_dir(number), ignore_errors=True)
