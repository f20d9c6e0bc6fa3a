"""The stored model of an ensemble: equal bits after reading, and one clear error for each file that cannot be used."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ichx.errors import ChangedDataError, CorruptFileError, IchxError, NotReadyError, UnsupportedError
from ichx.evaluation.blend_methods import LinearPool, LogitPool, RankPool, Stack
from ichx.evaluation.blend_record import BlendChoice, BlendRecord
from ichx.evaluation.calibration import Bounds, Consistent, Isotonic, Temperatures
from ichx.evaluation.choices import METHODS
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.evaluation.ensemble_file import (
    ARRAYS_FILE,
    MODEL_FILE,
    STORED_TYPES,
    EnsembleModel,
    ModelMember,
    decode,
    encode,
    load_model,
    read_model,
    write_model,
)
from ichx.evaluation.nested_score import _STEPS, BlendData, BlendOptions, BlendPipeline, FittedBlend
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.smoothing import Kernels, fit_kernels
from ichx.evaluation.stored_members import check_networks
from ichx.files import sha256_file
from ichx.project import Project

ANY_FLOAT = st.floats(width=64)
FLOATS = arrays(np.float64, st.tuples(st.integers(0, 4), st.integers(0, 6)), elements=ANY_FLOAT)
NAMES = st.text(max_size=8)
LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | ANY_FLOAT | NAMES | FLOATS
TREES = st.recursive(
    LEAVES
    | arrays(np.int64, st.integers(0, 3))
    | st.builds(LinearPool, st.lists(st.integers(0, 9)).map(tuple), FLOATS, st.none() | ANY_FLOAT)
    | st.builds(LogitPool, st.just((0, 2)), FLOATS)
    | st.builds(RankPool, st.just((1,)), FLOATS, FLOATS, st.builds(Isotonic, st.tuples(FLOATS), st.tuples(FLOATS)))
    | st.builds(Stack, st.just((0,)), FLOATS)
    | st.builds(Kernels, FLOATS)
    | st.builds(Temperatures, FLOATS)
    | st.builds(Bounds, ANY_FLOAT, ANY_FLOAT)
    | st.builds(Consistent)
    | st.builds(
        ModelMember, st.integers(1), NAMES, NAMES, st.dictionaries(st.integers(0), st.none() | NAMES), st.just({})
    ),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.dictionaries(st.integers() | NAMES, inner, max_size=3),
    max_leaves=8,
)


def bits(value: object) -> object:
    """Return a value that is equal for two trees only if all of their types and bits are."""
    if isinstance(value, np.ndarray):
        return (value.dtype.str, value.shape, value.flags.f_contiguous, value.tobytes())
    if isinstance(value, float):
        return ("float", np.float64(value).tobytes() if value == value else "nan")
    if isinstance(value, tuple):
        return ("tuple", *map(bits, value))
    if isinstance(value, dict):
        return ("dict", *((key, bits(item)) for key, item in value.items()))
    if dataclasses.is_dataclass(value):
        return (type(value), *(bits(getattr(value, field.name)) for field in dataclasses.fields(value)))
    return (type(value), value)


def world(seed: int, members: int, labelled: float) -> BlendData:
    """Return 18 patients with 1 to 7 slices in 3 folds, and members of different skill."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(18), rng.integers(1, 8, 18))
    labels = (rng.random((len(patient), 6)) < labelled).astype(float)
    skills = rng.uniform(0.2, 3, members)
    predicted = [1 / (1 + np.exp(-((labels - 0.5) * s + rng.normal(-0.5, 1, labels.shape)))) for s in skills]
    neighbours = SeriesNeighbours(patient, np.arange(len(patient)))
    return BlendData(tuple(predicted), labels, neighbours, patient, patient % 3)


def model_of(fitted: FittedBlend, members: int) -> EnsembleModel:
    choice = BlendChoice(None, fitted.method, "", tuple(range(members)), (), {1: 0.5}, None, {}, fitted.alternatives)
    return EnsembleModel(
        dataset="ph",
        dataset_version=1,
        dataset_digest="d",
        label_digest="l",
        fold_digest="f",
        folds=(0, 2),
        k=3,
        tta="hflip",
        options=BlendOptions(),
        members=tuple(ModelMember(k + 1, f"m{k}", "id", {0: None, 2: "w"}, {}) for k in range(members)),
        fitted=fitted,
        prevalence=np.linspace(0.1, 0.6, 6),
        oof_digest="o",
        record=BlendRecord({1: "a"}, 0.1, 0.2, None, None, choice, (choice,), (), ("note",)),
    )


@given(TREES)
@settings(max_examples=200)
def test_any_tree_is_read_back_to_the_same_bits(tree: object) -> None:
    found: list[np.ndarray] = []
    text = json.dumps(encode(tree, found), allow_nan=False)
    decoded = decode(json.loads(text), {f"a{at}": array for at, array in enumerate(found)})
    assert bits(decoded) == bits(tree)


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 2**16), members=st.integers(1, 4), labelled=st.sampled_from([0.0, 0.05, 0.3]))
@settings(max_examples=3)
def test_every_method_with_all_steps_predicts_the_same_bits(
    tmp_path_factory: pytest.TempPathFactory, method: str, seed: int, members: int, labelled: float
) -> None:
    """Steps are fitted whether they gain or not, so that each of them is stored."""
    folder = tmp_path_factory.mktemp("model")
    data = world(seed, members, labelled)
    pipeline = BlendPipeline(data, BlendOptions(method, smooth=True))  # type: ignore[arg-type]
    fitted = pipeline.fit()
    fits = {"smoothing": {"kernels": fit_kernels}, **_STEPS}
    for calibration in ("temperature", "temperatures", "isotonic"):
        chosen = {"smoothing": "kernels", "calibration": calibration, "consistency": "any >= subtypes"}
        steps, p = {}, fitted.pool.apply(dict(enumerate(data.members)), data.neighbours)
        for part, name in (chosen | {"clipping": "bounds"}).items():
            steps[part] = fits[part][name](p, data.labels, data.neighbours)
            p = steps[part].apply(p, data.neighbours)
        model = model_of(dataclasses.replace(fitted, steps=steps), members)
        read = load_model(folder, write_model(folder, model), "Blend again.")
        assert bits(read) == bits(model)
        assert pipeline.apply(read.fitted).tobytes() == pipeline.apply(model.fitted).tobytes()
        assert [str(step) for step in read.fitted.steps.values()] == [str(step) for step in steps.values()]


def test_classes_outside_the_registry_are_refused() -> None:
    with pytest.raises(TypeError, match="Path"):
        encode({"a": (Path(),)}, [])
    with pytest.raises(TypeError, match="list"):
        encode([1], [])
    with pytest.raises(TypeError, match="ndarray"):
        encode(np.array([object()]), [])

    @dataclasses.dataclass(frozen=True)
    class Bounds:
        low: float

    with pytest.raises(TypeError, match="Bounds"):
        encode(Bounds(0.1), [])
    with pytest.raises(KeyError, match="Popen"):
        decode({"$type": "Popen", "args": ["ls"]}, {})
    assert all(dataclasses.is_dataclass(cls) for cls in STORED_TYPES.values())


def test_an_ensemble_stores_its_model(project: Project) -> None:
    report = make_ensemble(project, EnsembleRequest(top=3, method="convex", smooth=True))
    model = read_model(project.workspace, report.ensemble)
    folder = project.workspace.ensemble_dir(1)
    assert report.ensemble.digest == sha256_file(folder / MODEL_FILE)
    assert model.oof_digest == sha256_file(folder / "oof.parquet")
    assert (model.dataset, model.dataset_version, model.folds, model.k, model.tta) == ("ph", 1, (0, 1), 2, "hflip")
    assert bits(model.record) == bits(
        BlendRecord(**{f.name: getattr(report, f.name) for f in dataclasses.fields(BlendRecord)})
    )
    assert [m.experiment for m in model.members] == [1, 2, 3]
    assert {m.experiment for m in model.used} == {m.experiment for m in report.ensemble.members}
    for member in model.members:
        files = project.workspace.experiment_files(member.experiment)
        used = member in model.used
        assert member.weights == ({k: sha256_file(files.fold(k).weights) for k in (0, 1)} if used else {})
        assert member.predictions == {
            f"{k}/{view}": sha256_file(files.fold(k).predictions("oof", view))
            for k in (0, 1)
            for view in ("identity", "hflip")
        }
    check_networks(project, report.ensemble, model)


def problem(project: Project, error: type[IchxError]) -> IchxError:
    with pytest.raises(error) as caught:
        check_networks(project, project.store.ensemble(1), read_model(project.workspace, project.store.ensemble(1)))
    assert "ichx ensemble --members 1,2 --tta none" in caught.value.remedy or error is UnsupportedError
    return caught.value


def test_files_that_cannot_be_used(project: Project) -> None:
    report = make_ensemble(project, EnsembleRequest(members=(1, 2), tta="none", method="mean", calibrate=False))
    folder = project.workspace.ensemble_dir(1)
    text, arrays_ = (folder / MODEL_FILE).read_text(), (folder / ARRAYS_FILE).read_bytes()

    (folder / ARRAYS_FILE).write_bytes(arrays_[:-1] + b"x")
    assert str(folder / ARRAYS_FILE) in problem(project, ChangedDataError).problem
    (folder / ARRAYS_FILE).unlink()
    assert str(folder / ARRAYS_FILE) in problem(project, ChangedDataError).problem
    (folder / ARRAYS_FILE).write_bytes(arrays_)

    (folder / MODEL_FILE).write_text(text + "\n")
    changed = problem(project, ChangedDataError).problem
    assert str(folder / MODEL_FILE) in changed
    assert str(report.ensemble.digest)[:12] in changed
    (folder / MODEL_FILE).unlink()
    assert str(folder / MODEL_FILE) in problem(project, ChangedDataError).problem

    def load(content: str) -> EnsembleModel:
        (folder / MODEL_FILE).write_text(content)
        return load_model(folder, sha256_file(folder / MODEL_FILE), "Blend again.")

    document = json.loads(text)
    with pytest.raises(UnsupportedError, match=r"format 2 of ichx 9\.1") as newer:
        load(json.dumps(document | {"format": 2, "ichx": "9.1", "model": None}))
    assert "9.1" in newer.value.remedy
    with pytest.raises(UnsupportedError, match=r"ichx 9\.1.* 'NewStep'") as newer:
        load(json.dumps(document | {"ichx": "9.1"}).replace("LinearPool", "NewStep"))
    assert "9.1" in newer.value.remedy
    for content in (
        "",
        "[]",
        "{}",
        "[" * 100_000,
        json.dumps(document | {"model": 3}),
        text.replace('"$type": "LinearPool"', '"$type": "Popen"'),
        text.replace('"certificate"', '"unknown"'),
        text.replace('"$array": "a0"', '"$array": "a77"'),
        text.replace('"$array": "a0"', '"$array": "a1"'),
    ):
        assert content != text
        with pytest.raises(CorruptFileError, match=MODEL_FILE):
            load(content)
    assert bits(load(text)) == bits(read_model(project.workspace, report.ensemble))


def test_members_that_have_changed(project: Project) -> None:
    make_ensemble(project, EnsembleRequest(members=(1, 2), tta="none", method="mean"))
    one, two = (project.workspace.experiment_files(1).fold(k).weights for k in (0, 1))
    recorded = sha256_file(one)
    one.write_bytes(one.read_bytes() + b" ")
    two.unlink()
    first, second = problem(project, ChangedDataError).problem.splitlines()
    assert "fold 0 of experiment 1 " in first
    assert recorded[:12] in first
    assert sha256_file(one)[:12] in first
    assert "fold 1 of experiment 1 " in second


def test_an_ensemble_of_an_older_version(project: Project) -> None:
    report = make_ensemble(project, EnsembleRequest(members=(1, 2), tta="none"))
    old = dataclasses.replace(report.ensemble, digest=None)
    with pytest.raises(NotReadyError, match=r"\b1\b") as caught:
        read_model(project.workspace, old)
    assert "ichx ensemble --members 1,2 --tta none" in caught.value.remedy
