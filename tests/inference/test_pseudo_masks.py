"""Pseudo-masks: by which networks, which pixels, how an interrupted command resumes, and what a training reads."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import safetensors
import torch
from built_once import built_once
from conftest import SHORT, Program
from safetensors.torch import load_file, save_file
from web_site import serving

from ichx.cache.dataset_removal import dataset_artifacts, remove_dataset
from ichx.cache.hu_cache import CacheSpec
from ichx.cache.mixture_cache import ensure_dataset_cache
from ichx.cache.mixture_masks import MixtureMasks
from ichx.ct.geometry import head_centre, offset_to_centre, shift
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_version
from ichx.datasets.fold_labels import FoldLabels, read_fold_labels
from ichx.datasets.fold_masks import FoldMasks, fold_masks_file, masks_of_parts
from ichx.datasets.mask_png import decode_mask
from ichx.datasets.mix import ensure_joint
from ichx.errors import ChangedDataError, InvalidInputError, UnsupportedError
from ichx.evaluation.audit import audit
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.pseudo_labels import LabelRule
from ichx.evaluation.pseudo_masks import MaskRule
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.gc import find_garbage
from ichx.experiments.prepare import PreparedExperiment, prepare_experiment
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.inference import pseudo_masks
from ichx.inference.pseudo import PseudoReport, PseudoRequest, create_pseudo_labels
from ichx.inference.trained import InferenceOptions
from ichx.labels import SUBTYPES, UNKNOWN_MASK
from ichx.phantom.dicom_files import PhantomFiles, write_phantom
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.report.slice_heat import SliceToExplain, slice_heat
from ichx.store import open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import init_workspace, open_workspace

CPU = InferenceOptions(device="cpu")
RULE = MaskRule.parse("any>=0.7|any<=0.3")
UNET = ExperimentRequest("tiny_unet", dataset="ph", size=64, settings=(*SHORT, "precision=fp32"))


def sharpen(path: Path, seed: int, scale: float = 1.0) -> None:
    """Replace the layer of the masks, so that its probabilities lie between 0 and 1 without hours of training."""
    with safetensors.safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(path)
    generator = torch.Generator().manual_seed(seed)
    weight = tensors["segmentation_head.0.weight"]
    tensors["segmentation_head.0.weight"] = scale * torch.randn(weight.shape, generator=generator)
    tensors["segmentation_head.0.bias"] = torch.full_like(tensors["segmentation_head.0.bias"], -1.0)
    save_file(tensors, path, metadata)


@pytest.fixture(scope="session")
def segmenting_root(phantom: PhantomFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with `ph` (2 folds, masks), two U-Nets and a plain network on it, and `new` without labels."""

    def build(folder: Path) -> Path:
        others = write_phantom(folder / "others", patients=3, seed=6, size=64, prevalence={"any": 0.5})
        assert others.train is not None
        workspace, registry = init_workspace(folder / "workspace"), load_registry()
        with open_store(workspace) as store:
            project = Project(workspace, store, registry)
            masks = phantom.train_masks
            add_dataset(project, AddRequest("ph", phantom.train, labels=phantom.train_labels, masks=masks, folds=2))
            add_dataset(project, AddRequest("new", others.train))
            small = ExperimentRequest(
                "tiny_unet", dataset="ph", size=32, settings=(*UNET.settings, "input.centre=none")
            )
            plain = ExperimentRequest("tiny_resnet", dataset="ph", size=32, settings=UNET.settings)
            for number, request in enumerate((UNET, small, plain), start=1):
                new_experiment(store, registry, request)
                run_experiment(project, number)
                for fold in range(2) if number < 3 else ():
                    sharpen(workspace.experiment_files(number).fold(fold).weights, 10 * number + fold)
        return workspace.root

    return built_once(tmp_path_factory, "segmenting", build)


@pytest.fixture
def place(segmenting_root: Path, tmp_path: Path) -> Iterator[Project]:
    workspace = open_workspace(Path(shutil.copytree(segmenting_root, tmp_path / "workspace")))
    with open_store(workspace) as store:
        yield Project(workspace, store)


def created(
    project: Project,
    labels: LabelRule | None = None,
    *,
    masks: MaskRule | None = RULE,
    by: str = "1",
    name: str = "pseudo",
) -> PseudoReport:
    request = PseudoRequest(name, "new", by, labels or LabelRule(), options=CPU, masks=masks)
    return create_pseudo_labels(project, request, callbacks=RunCallbacks())


def stored(project: Project, fold: int, name: str = "pseudo") -> dict[str, np.ndarray]:
    masks = masks_of_parts(project.store.version(name))[name].read(project.workspace, fold)
    return {name: decode_mask(png) for name, png in zip(masks.slice_ids, masks.pngs, strict=True)}


def labels_of(project: Project, name: str = "pseudo") -> FoldLabels:
    found = read_fold_labels(project.workspace, project.store.version(name))
    assert found is not None
    return found


def predicted(project: Project, number: int, fold: int, slice_id: str) -> np.ndarray:
    """Return the probabilities (5, size, size) of the web app, which predicts single slices, over the cached square."""
    data = load_version(project.workspace, project.store.version("new"))
    slices = data.slices.assign(row=np.arange(len(data.slices)))
    given = SliceToExplain("none", "0" * 64, data.source, slices, slice_id)
    return slice_heat(project, number, fold, given, masks=True)[: len(SUBTYPES)]


def expected(p: np.ndarray, labels: np.ndarray, high: float = 0.7, low: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask for the probabilities `p` (5, H, W), and the pixels that are not close to a threshold."""
    top, subtype = p.max(axis=0), p.argmax(axis=0)
    mask = np.full(top.shape, UNKNOWN_MASK, np.uint8)
    mask[top <= low] = 0
    certain = (top >= high) & (labels[:5] >= 0.5)[subtype]
    mask[certain] = subtype[certain] + 1
    second = np.sort(p, axis=0)[-2]
    clear = (np.abs(top - high) > 1e-3) & (np.abs(top - low) > 1e-3) & (top - second > 1e-3)
    return mask, clear


def mixed(project: Project, settings: tuple[str, ...] = UNET.settings, *, labelled: str = "ph") -> PreparedExperiment:
    ensure_joint(project, f"{labelled}+pseudo")
    request = ExperimentRequest("tiny_unet", dataset=f"{labelled}+pseudo", size=64, settings=settings)
    experiment = new_experiment(project.store, project.registry, request)
    return prepare_experiment(project, experiment, RunCallbacks())


@pytest.mark.parametrize("centre", ["slice", "series"])
def test_a_fold_trains_on_the_masks_of_its_own_networks(place: Project, centre: str) -> None:
    """At the size of the slices nothing is resampled: what a training reads is what the web app predicts."""
    if centre == "series":
        run_series(place)
    found = created(place, by="4" if centre == "series" else "1")
    assert found.created
    number = 4 if centre == "series" else 1
    prepared = mixed(place, (*UNET.settings, f"input.centre={centre}"))
    assert prepared.cache.spec.centre == centre
    ids = prepared.data.slices["slice_id"].to_numpy(object)
    pseudo = np.flatnonzero(prepared.folds == -1)
    seen = {0: 0, UNKNOWN_MASK: 0, 1: 0}
    by_fold = []
    for fold in (0, 1):
        masks = prepared.masks_of(fold)
        assert masks is not None
        labels = labels_of(place).of_fold(fold, ids)
        assert masks.known[pseudo].all()
        by_fold.append([masks.read(int(row)) for row in pseudo])
        for row in pseudo[:: 7 if centre == "slice" else 29].tolist():
            mask = masks.read(row)
            assert mask is not None
            wanted, clear = expected(predicted(place, number, fold, ids[row]), labels[row])
            inside = clear & (prepared.cache.read(row) > -1000)  # air that centring brings in is background
            assert inside.mean() > 0.1
            assert np.array_equal(mask[inside], wanted[inside])
            for value, count in zip(*np.unique(mask, return_counts=True), strict=True):
                seen[min(int(value), 1) if value != UNKNOWN_MASK else UNKNOWN_MASK] += count
        real = np.flatnonzero(prepared.folds >= 0)
        assert prepared.masks is not None
        for row in real[::5].tolist():
            one, same = prepared.masks.read(row), masks.read(row)
            assert (one is None and same is None) or np.array_equal(one, same)
        feed = prepared.feed(fold, 0)
        (batch,) = list(feed.inference_batches(pseudo[:3], batch=3, masks=True))
        assert batch.masks is not None
        assert np.array_equal(batch.masks.numpy(), np.stack([masks.read(int(row)) for row in pseudo[:3]]))
    assert min(seen.values()) > 0, seen
    assert any(not np.array_equal(one, other) for one, other in zip(*by_fold, strict=True))


def run_series(project: Project) -> None:
    """Train experiment 4, which centres heads by series."""
    request = ExperimentRequest("tiny_unet", dataset="ph", size=64, settings=(*UNET.settings, "input.centre=series"))
    number = new_experiment(project.store, project.registry, request).number
    run_experiment(project, number)
    for fold in (0, 1):
        sharpen(project.workspace.experiment_files(number).fold(fold).weights, 40 + fold)


def test_masks_follow_the_labels_of_their_slices(place: Project) -> None:
    """Slices without a label have no mask, hard negatives an empty one; pixels of denied subtypes are unknown."""
    created(place, masks=None, name="soft")
    p = labels_of(place, "soft").table["any"]
    low, high = (round(float(bound), 6) for bound in np.quantile(p, [0.3, 0.7]))
    created(place, LabelRule.parse(f"any>={high}|any<={low}", hard=True))
    prepared = mixed(place)
    ids = prepared.data.slices["slice_id"].to_numpy(object)
    pseudo = np.flatnonzero(prepared.folds == -1)
    for fold in (0, 1):
        labels, masks = labels_of(place).of_fold(fold, ids[pseudo]), prepared.masks_of(fold)
        labelled, negative = ~np.isnan(labels).any(axis=1), (labels == 0).all(axis=1)
        assert masks is not None
        assert 0 < labelled.sum() < len(pseudo)
        assert np.array_equal(masks.known[pseudo], labelled)
        assert set(stored(place, fold)) == set(ids[pseudo][labelled & ~negative])
        for row in pseudo[negative].tolist():
            assert masks.read(row) is None
        for name, mask in stored(place, fold).items():
            values = set(np.unique(mask)) - {0, UNKNOWN_MASK}
            assert values <= {1 + k for k in range(5) if labels[list(ids[pseudo]).index(name)][k] >= 0.5}


def test_an_ensemble_averages_the_members_with_masks(place: Project) -> None:
    number = make_ensemble(place, EnsembleRequest(members=[1, 2, 3], tta="none", method="mean")).ensemble.number
    created(place, by=f"ensemble:{number}")
    origin = place.store.version("pseudo").summary["pseudo"]
    assert origin["masks"]["experiments"] == [1, 2]
    assert origin["masks"]["mirrored"] == [False, False]
    # both members see complete slices here: experiment 1 of 64 px moves heads, experiment 2 of 32 px does not
    data = load_version(place.workspace, place.store.version("new"))
    ids, labels = data.slices["slice_id"].to_numpy(object), labels_of(place)
    found, cache = (
        stored(place, 1),
        ensure_dataset_cache(place.workspace.cache_dir, data, CacheSpec(64, "none", "area")),
    )
    compared = 0
    for row in range(0, len(ids), 9):
        one, two = predicted(place, 1, 1, ids[row]), predicted(place, 2, 1, ids[row])
        down, right = offset_to_centre((64, 64), head_centre(cache.read(row)))
        one = np.stack([shift(p, -down, -right, 0) for p in one])
        two = np.stack([cv2.resize(p, (64, 64), interpolation=cv2.INTER_LINEAR) for p in two])
        wanted, clear = expected((one + two) / 2, labels.of_fold(1, ids[row : row + 1])[0])
        clear &= shift(np.ones((64, 64), np.uint8), -down, -right, 0).view(bool)
        assert np.array_equal(found[ids[row]][clear], wanted[clear])
        compared += clear.sum()
    assert compared


def test_a_rerun_predicts_nothing_and_other_thresholds_are_another_version(
    place: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = created(place)
    assert not list(place.workspace.cache_dir.rglob("pseudo-masks-*")), "finished parts are removed"
    monkeypatch.setattr(pseudo_masks, "open_networks", None)  # fails if it is called
    again = created(place)
    assert (again.created, again.version) == (False, first.version)
    monkeypatch.undo()
    other = created(place, masks=MaskRule.parse("any>=0.8|any<=0.2"))
    assert (other.created, other.version.number) == (True, 2)
    without = created(place, masks=None)
    assert (without.created, without.version.number) == (True, 3)
    assert masks_of_parts(without.version) == {}
    one, two = (place.store.version("pseudo", number).summary["pseudo"] for number in (1, 2))
    assert one["digest"] == two["digest"]
    assert one["masks"]["digests"] != two["masks"]["digests"]
    for fold in (0, 1):
        ignored = [of["masks"]["counts"][fold]["ignored"] for of in (one, two)]
        assert ignored[0] < ignored[1]


def test_an_interrupted_prediction_resumes(place: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 16 slices: nothing is added until all are finished, and finished ones are not predicted again."""
    from ichx.inference.trained import FoldNetworks

    created(place, name="whole")
    monkeypatch.setattr(pseudo_masks, "PART", 16)
    original, parts = FoldNetworks.mask_probabilities, list[int]()

    def interrupted(self: FoldNetworks, feed: object, rows: np.ndarray, *, mirrored: bool) -> np.ndarray:
        parts.append(len(rows))
        if len(parts) == 3:
            raise KeyboardInterrupt
        return original(self, feed, rows, mirrored=mirrored)  # type: ignore[arg-type]

    monkeypatch.setattr(FoldNetworks, "mask_probabilities", interrupted)
    with pytest.raises(KeyboardInterrupt):
        created(place)
    assert [dataset.name for dataset in place.store.datasets() if dataset.name == "pseudo"] == []
    assert not (place.workspace.datasets_dir / "pseudo").exists()
    (folder,) = place.workspace.cache_dir.rglob("pseudo-masks-*")
    assert len(list(folder.iterdir())) == 2
    assert folder not in [garbage.path for garbage in find_garbage(place)], "it may be running"
    for path in (folder, *folder.iterdir()):
        os.utime(path, (time.time() - 2 * 86400,) * 2)
    assert [(one.path, one.move) for one in find_garbage(place) if one.path == folder] == [(folder, False)]
    damaged = min(folder.iterdir())
    damaged.write_bytes(damaged.read_bytes()[:100])
    created(place)
    count = len(stored(place, 0))
    assert len(parts) == 3 + 2 * -(-count // 16) - 1, "one finished part was damaged"
    same = [place.store.version(name).summary["pseudo"]["masks"]["digests"] for name in ("whole", "pseudo")]
    assert same[0] == same[1]
    assert not list(place.workspace.cache_dir.rglob("pseudo-masks-*"))


def test_what_is_refused(place: Project) -> None:
    with pytest.raises(UnsupportedError, match="Experiment 3 predicts no masks"):
        created(place, by="3")
    number = make_ensemble(place, EnsembleRequest(members=[3], tta="none")).ensemble.number
    with pytest.raises(UnsupportedError, match=f"No member of ensemble {number}"):
        created(place, by=f"ensemble:{number}")
    assert not place.store.predictions(3, role="evaluation"), "nothing is predicted before"
    for fold in (0, 1):
        sharpen(place.workspace.experiment_files(1).fold(fold).weights, 0, scale=0.0)
    with pytest.raises(InvalidInputError, match="largest probability is 0.269"):  # 1 / (1 + e)
        created(place)
    assert [dataset.name for dataset in place.store.datasets()] == ["new", "ph"]
    assert not list(place.workspace.cache_dir.rglob("pseudo-masks-*"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("any>=0.05|any<=0.9", "0.5"),
        ("any<=0.9&any>=0.05", "0.5"),
        ("any>=0.9&any<=0.05", "no positive pixel"),
        ("any>=0.9", "no negative pixel"),
        ("any<=0.1", "no positive pixel"),
        ("bleed>=0.9", "bleed"),
    ],
)
def test_conditions_that_do_not_separate_sure_pixels_are_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        MaskRule.parse(text)


def test_masks_of_a_mixture_without_drawn_masks_are_learned(place: Project, phantom: PhantomFiles) -> None:
    """The labelled part has no masks here: pseudo-masks are the only ones, besides those of negative slices."""
    request = AddRequest("bare", phantom.train, labels=phantom.train_labels, folds=2)
    add_dataset(place, request)
    created(place)
    prepared = mixed(place, labelled="bare")
    assert isinstance(prepared.masks, MixtureMasks)
    masks = prepared.masks_of(0)
    assert masks is not None
    real, positive = prepared.folds >= 0, prepared.data.slices["any"] > 0.5
    assert np.array_equal(masks.known[real], ~positive[real])
    assert masks.known[~real].all()


def test_changed_masks_are_noticed_and_removed_with_the_dataset(place: Project) -> None:
    created(place)
    prepared = mixed(place)
    number = prepared.experiment.number
    checks = {check.subject: check for check in audit(place, number).checks if "pseudo" in check.subject}
    assert {check.state for check in checks.values()} == {"ok"}
    assert "none scored" in checks["pseudo labels"].detail
    assert "fold 1 of experiment 1 alone, none scored" in checks["pseudo fold 1 masks"].detail
    assert not [one for one in find_garbage(place) if "pseudo" in str(one.path)]
    path = place.workspace.root / place.store.version("pseudo").path / fold_masks_file(0)
    table = pd.read_parquet(path)
    before, other = stored(place, 0), stored(place, 1)
    FoldMasks(table["slice_id"].to_numpy(object), table["png"].tolist()[::-1]).write(path.parent, 0)
    with pytest.raises(ChangedDataError, match="pseudo-masks of pseudo"):
        stored(place, 0)
    wrong = {check.subject for check in audit(place, number).checks if check.state == "wrong"}
    assert wrong == {"pseudo fold 0 masks", "finished"}, "the experiment has not run"
    again = created(place)
    assert (again.created, again.version.number) == (False, 1), "they are predicted again, and the file is restored"
    for fold, masks in enumerate((before, other)):
        assert all(np.array_equal(mask, masks[name]) for name, mask in stored(place, fold).items())
    place.store.trash([number])
    place.store.purge(number)
    remove_dataset(place, "ph+pseudo")
    cached = next(one for one in dataset_artifacts(place, "pseudo") if one.what == "cached masks")
    assert len(cached.files) == 2
    remove_dataset(place, "pseudo")
    assert not any(file.exists() for file in cached.files)
    assert not path.exists()


def test_the_viewer_draws_pseudo_masks(place: Project) -> None:
    created(place)
    masks = stored(place, 0)
    name, mask = max(masks.items(), key=lambda pair: len(np.unique(pair[1])))
    value = next(int(one) for one in np.unique(mask)[::-1] if 0 < one < UNKNOWN_MASK)
    label = SUBTYPES[value - 1]
    with serving(place.workspace.root) as served:
        client = served.client()
        answer = client.get(f"/api/overlays/pseudo@1/{name}", params={"kind": "mask", "label": label})
    assert answer.status_code == 200, answer.text
    assert answer.headers["X-Meaning"] == f"pseudo-mask of {label} by the networks of fold 0"
    shape = int(answer.headers["X-Rows"]), int(answer.headers["X-Columns"])
    shown = np.select([mask == value, mask == UNKNOWN_MASK], [255, 1])
    assert np.array_equal(np.frombuffer(answer.content, np.uint8).reshape(shape), shown)


@pytest.mark.slow
def test_from_the_command_line_to_a_training_that_passes_the_audit(place: Project, ichx: Program) -> None:
    root = place.workspace.root
    command = ("data", "pseudo", "pseudo", "--of", "new", "--by", 1, "--device", "cpu")
    reversed_ = ichx(*command, "--masks", "--mask-keep", "any>=0.1|any<=0.9", "--json", cwd=root)
    reversed_.check_error("invalid_input", "any>=0.1|any<=0.9", "0.5")
    ichx(*command[:-3], 3, "--masks", "--json", cwd=root).check_error("unsupported", "no masks")
    made = ichx(*command, "--mask-keep", "any>=0.7|any<=0.3", cwd=root)
    assert made.code == 0, made.err
    assert "ignored pixels in masks" in made.out
    shown = ichx("data", "show", "pseudo", cwd=root)
    assert "masks by experiment 1; pixels kept: any>=0.7|any<=0.3" in shown.out
    facts = json.loads(ichx("data", "show", "pseudo", "--json", cwd=root).out)
    assert sorted(facts["version"]["summary"]["pseudo"]["masks"]["digests"]) == ["0", "1"]
    ensure_joint(place, "ph+pseudo")
    request = ExperimentRequest("tiny_unet", dataset="ph+pseudo", size=32, settings=UNET.settings)
    number = new_experiment(place.store, place.registry, request).number
    run_experiment(place, number, options=RunOptions(workers=0))
    assert audit(place, number).passed
    (history,) = [record for record in place.store.history(number, 0) if record.stage == "full"]
    assert "dice" in history.values
