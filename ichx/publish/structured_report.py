"""DICOM structured reports (TID 1500) of predicted studies, with `highdicom`. They are for research only.

A report has a measurement group per label: the probability of the study as certainty in percent, the call at the stored
threshold, and the slice with the largest probability. All slices of the study are its evidence.
"""

import uuid
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd

from ichx import __version__
from ichx.errors import InvalidInputError, MissingDependencyError
from ichx.files import atomic_write, check_writable
from ichx.inference.predict import FilePredictions
from ichx.inference.prediction_files import REMEDY
from ichx.inference.ready_model import ReadyModel
from ichx.labels import ANY, LABELS
from ichx.publish.model_identity import weights_digest
from ichx.publish.sr_evidence import check_evidence, study_evidence
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RESEARCH: Final = "research, not for clinical use"
SCHEME: Final = "99ICHX"
"""Private coding scheme of what has no code in the dictionary of pydicom."""
SERIES_NUMBER: Final = 9901
_DEVICE: Final = "2.25.207094735514364716373519208917467713"
"""UID of ichx as observing device: every report has the same."""


@dataclass(frozen=True)
class ReportedModel:
    """How a report identifies the algorithm."""

    name: str
    """E.g. `ichx experiment 6: resnext50`."""
    weights: str
    """SHA-256 of the weights."""


def prepare_reports(out: Path) -> "Callable[[Path, pd.DataFrame], None]":
    """Check that reports can be written to `out`; return the check of the files before they are predicted.

    Raises:
        MissingDependencyError: highdicom is not installed.
        IchxError: See `check_target`; the returned function raises like `check_evidence`, too.
    """
    require_highdicom()
    check_target(out)

    def check(source: Path, slices: pd.DataFrame) -> None:
        check_target(out, slices["study"].nunique())
        check_evidence(source, slices)

    return check


def write_reports_of(out: Path, found: FilePredictions, model: ReadyModel) -> list[Path]:
    """Write the reports of what `model` has predicted; see `write_structured_reports`."""
    of = f"experiment {found.experiment}" if found.ensemble is None else f"ensemble {found.ensemble}"
    return write_structured_reports(out, found, ReportedModel(f"ichx {of}: {model.name}", weights_digest(model)))


def require_highdicom() -> None:
    """Raise `MissingDependencyError` unless highdicom can be imported."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"Structured reports need the package {error.name}.", "Install it: pip install 'ichx[sr]'."
        ) from error


def check_target(out: Path, studies: int | None = None) -> None:
    """Check that reports can be written to `out`: a folder, or a name with `.dcm` for a single study.

    Raises:
        InvalidInputError: `out` has another suffix, or a `.dcm` for several studies.
        StorageError: The folder is not writable.
    """
    if out.suffix == ".dcm":
        if studies is not None and studies != 1:
            raise InvalidInputError(
                f"{out} is one file, but there are {format_count(studies, 'study', 'studies')}.",
                "Name a folder: it receives one structured report per study.",
            )
        check_writable(out, "the structured report", remedy=REMEDY)
        return
    if out.suffix and not out.is_dir():
        raise InvalidInputError(f"Unknown suffix of {out}.", "Name a folder, or a file that ends with .dcm.")
    check_writable(out / "study.dcm", "the structured reports", remedy=REMEDY)


def write_structured_reports(out: Path, found: FilePredictions, model: ReportedModel) -> list[Path]:
    """Write one report per predicted study and return the files, which only their owner can read.

    Args:
        out: A folder, whose files are named by the ids of the table of studies; or a file for a single study.
        found: The predictions, with calls.
        model: What predicted.

    Raises:
        InvalidInputError: `out` is one file for several studies.
        StorageError: A file cannot be written.
        IchxError: The evidence cannot be read; see `ichx.publish.sr_evidence`.
    """
    studies = found.studies[found.studies[ANY].notna()]
    check_target(out, len(studies))
    written = []
    for row in studies.to_dict("records"):
        with _quiet():
            report = structured_report(found, row, model)
        path = out if out.suffix == ".dcm" else out / f"{row['study']}.dcm"
        with atomic_write(path, "the structured report", remedy=REMEDY, private=True) as draft, _quiet():
            report.save_as(draft)
        written.append(path)
    return written


def structured_report(found: FilePredictions, study: "dict[Any, Any]", model: ReportedModel) -> Any:
    """Return the report of one study as a `pydicom.Dataset`.

    Args:
        found: The predictions.
        study: Row of `found.studies`.
        model: What predicted.
    """
    from highdicom import sr
    from pydicom.sr.codedict import codes

    slices = found.catalog[found.catalog["study"] == study["study"]]
    evidence = study_evidence(found.source, slices)
    predicted = found.slices[(found.slices["study"] == study["study"]) & found.slices["defect"].isna()]
    algorithm = sr.AlgorithmIdentification(
        name=model.name,
        version=f"ichx {__version__}, weights {model.weights[:16]}",
        parameters=_parameters(found, model),
        family=codes.DCM.ArtificialIntelligence,
    )
    groups = [_group(found, study, label, predicted, evidence, algorithm) for label in LABELS]
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=_DEVICE, name="ichx", manufacturer_name="ichx", model_name=model.name[:64]
        ),
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.ComputedTomographyOfHead,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    flags = study["flags"] if isinstance(study.get("flags"), str) else ""
    for text in (RESEARCH, f"flags of slices: {flags}") if flags else (RESEARCH,):
        content[0].ContentSequence.append(
            sr.TextContentItem(codes.DCM.Comment, text, relationship_type=sr.RelationshipTypeValues.CONTAINS)
        )
    return sr.ComprehensiveSR(
        evidence=list(evidence.values()),
        content=content[0],
        series_instance_uid=_new_uid(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=_new_uid(),
        instance_number=1,
        manufacturer="ichx",
        manufacturer_model_name=model.name[:64],
        software_versions=__version__,
        series_description=f"ichx: {RESEARCH}",
        is_complete=True,
        is_final=False,
        is_verified=False,
    )


def _group(
    found: FilePredictions,
    study: "dict[Any, Any]",
    label: str,
    predicted: pd.DataFrame,
    evidence: "dict[str, Any]",
    algorithm: Any,
) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    finding = codes.SCT.IntracranialHemorrhage if label == ANY else _code(label, f"{label} hemorrhage".capitalize())
    measurements = [
        sr.Measurement(codes.DCM.CertaintyOfFinding, round(100 * float(study[label]), 4), codes.UCUM.Percent)
    ]
    calls = []
    for threshold in found.thresholds:
        if threshold["label"] != label:
            continue
        at = sr.CodedConcept("%", "UCUM", "Percent")
        if threshold["unit"] == "study":
            name = _code("study-threshold", "Threshold of the certainty of a study")
            called = study[f"called_{label}"]
            calls = [sr.QualitativeEvaluation(finding, codes.SCT.Present if called == 1 else codes.SCT.Absent)]
        else:
            name = _code("slice-threshold", "Threshold of the certainty of a slice")
            count = int((predicted[f"called_{label}"] == 1).sum())
            measurements.append(
                sr.Measurement(_code("called-slices", "Slices at or above the threshold"), count, codes.UCUM.NoUnits)
            )
        measurements.append(sr.Measurement(name, round(100 * float(threshold["threshold"]), 4), at))
    learnt = study.get(f"learnt_{label}")
    if learnt is not None and not np.isnan(learnt):
        name = _code("learnt-certainty", "Certainty of the finding as predicted for the complete study")
        measurements.append(sr.Measurement(name, round(100 * float(learnt), 4), codes.UCUM.Percent))
    top = predicted.iloc[int(predicted[label].to_numpy(np.float64).argmax())]
    header = evidence[str(top["file"])]
    frames = [int(top["frame"])] if int(top["frame"] or 0) else None
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=_new_uid(), identifier=label),
        finding_type=finding,
        finding_sites=[sr.FindingSite(codes.SCT.Brain)],
        algorithm_id=algorithm,
        measurements=measurements,
        qualitative_evaluations=calls or None,
        source_images=[sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID, frames)],
    )


@contextmanager
def _quiet() -> "Iterator[None]":
    """Suppress pydicom's warnings of names and dates that break rules: they are copied as they are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _parameters(found: FilePredictions, model: ReportedModel) -> "Sequence[str]":
    rules = [
        f"threshold {one['label']} per {one['unit']} >= {one['threshold']:.6g} ({one['rule']} {one['value']:g})"
        for one in found.thresholds
    ]
    folds = ", ".join(map(str, found.folds))
    return [
        f"weights SHA-256 {model.weights}",
        f"mean {found.average} over folds {folds}, tta {found.tta}, {found.precision}",
        "certainty of a study: maximum over its slices",
        *([] if found.recalibrated is None else [f"recalibration {found.recalibrated}"]),
        *rules,
    ]


def _code(value: str, meaning: str) -> Any:
    from highdicom import sr

    return sr.CodedConcept(value[:16], SCHEME, meaning)


def _new_uid() -> Any:
    import highdicom

    return highdicom.UID(f"2.25.{uuid.uuid4().int}")


def describe_left_out(found: FilePredictions) -> str | None:
    """Return a line about studies without a report, because none of their slices can be decoded."""
    missing = found.studies.loc[found.studies[ANY].isna(), "study"].astype(str).tolist()
    if not missing:
        return None
    count = format_count(len(missing), "study", "studies")
    return f"No structured report for {count} without a decodable slice{format_examples(missing[:3], len(missing))}."
