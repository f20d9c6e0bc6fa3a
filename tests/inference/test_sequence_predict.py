"""Sequence experiments predict new files and other datasets through their members."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Program

from ichx.datasets.dataset import load_version
from ichx.errors import ChangedDataError, UnsupportedError
from ichx.evaluation.averaging import mean_of
from ichx.evaluation.metric import probabilities
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.register import ExperimentRequest
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.inference.predict import FileOutputs, predict_files
from ichx.inference.ready_model import ready_experiment
from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles
from ichx.project import Project
from ichx.store import PredictionDraft
from ichx.training.callbacks import Callbacks

pytestmark = pytest.mark.slow

TINY = ("stage.full.epochs=2", "sequence.width=4", "sequence.parts=2", "batch=4")


def trained(project: Project, *members: int, inputs: tuple[str, ...] = ("logits", "features")) -> int:
    request = ExperimentRequest(plugin="gru_stack", settings=TINY)
    made = new_sequence(project, request, members, inputs)[0]
    run_experiment(project, made.number)
    return made.number


@pytest.mark.parametrize("inputs", [("logits",), ("logits", "features")])
def test_files_are_predicted_as_the_test_set_was(
    project: Project, phantom: PhantomFiles, inputs: tuple[str, ...]
) -> None:
    number = trained(project, 1, 2, inputs=inputs)
    stored = [
        read_predictions(project.workspace.root / p.path)
        for p in project.store.predictions(number, role="test", view="identity")
    ]
    expected = mean_of([probabilities(one.logits) for one in stored], "logit")
    assert phantom.test is not None
    model = ready_experiment(project, number, None, print)
    found = predict_files(project, model, phantom.test, callbacks=Callbacks())
    table = found.slices.set_index("slice_id").loc[stored[0].slice_ids.tolist()]
    # The features come from other batches, so that the last digit of float16 may differ.
    tolerance = 1e-6 if inputs == ("logits",) else 1e-3
    np.testing.assert_allclose(table[list(LABELS)].to_numpy(), expected, atol=tolerance)
    assert found.folds == (0, 1)
    of_studies = [one.study_logits for one in stored if one.study_logits is not None]
    assert len(of_studies) == len(stored)
    ids = found.slices.set_index("slice_id").loc[stored[0].slice_ids.tolist(), "study"]
    mean = pd.DataFrame(mean_of([probabilities(z) for z in of_studies], "logit")).groupby(ids.to_numpy()).first()
    studies = found.studies.set_index("study").loc[mean.index, [f"learnt_{label}" for label in LABELS]]
    np.testing.assert_allclose(studies.to_numpy(), mean.to_numpy(), atol=tolerance)
    plain = predict_files(project, ready_experiment(project, 1, None, print), phantom.test, callbacks=Callbacks())
    assert not [name for name in plain.studies if name.startswith("learnt")]
    outputs = FileOutputs(features=Path("x.csv"))
    with pytest.raises(UnsupportedError, match=str(number)):
        predict_files(project, model, phantom.test, callbacks=Callbacks(), outputs=outputs)


def test_a_sequence_experiment_of_sequence_experiments_predicts(project: Project, phantom: PhantomFiles) -> None:
    first = trained(project, 1, 2, inputs=("logits",))
    second = trained(project, 3, first, inputs=("logits",))
    assert phantom.test is not None
    found = predict_files(project, ready_experiment(project, second, None, print), phantom.test, callbacks=Callbacks())
    slices = load_version(project.workspace, project.store.version("ph-test")).slices
    assert found.predicted == len(slices)
    # The member was retrained, and its new predictions are recorded.
    [old] = [p for p in project.store.predictions(1, role="oof", view="identity") if p.fold == 0]
    facts = {name: value for name, value in vars(old).items() if name != "created"}
    project.store.add_predictions([PredictionDraft(**facts | {"digest": "0" * 64})])
    with pytest.raises(ChangedDataError, match="experiment 1"):
        predict_files(project, ready_experiment(project, second, None, print), phantom.test, callbacks=Callbacks())


def test_another_dataset_is_evaluated(project: Project, ichx: Program, tmp_path: Path) -> None:
    from ichx.datasets.add import AddRequest, add_dataset
    from ichx.phantom.dicom_files import write_phantom

    files = write_phantom(tmp_path / "other", patients=3, seed=9, size=64, prevalence={"any": 0.6})
    assert files.train is not None
    add_dataset(project, AddRequest("other", files.train, labels=files.train_labels, folds=0))
    number = trained(project, 1, 2)
    root = project.workspace.root
    done = ichx("evaluate", number, "--dataset", "other", "--csv", cwd=root)
    assert done.code == 0, done.err
    version = project.store.version("other")
    stored = project.store.predictions(number, role="evaluation", version_id=version.id)
    assert [(p.fold, p.view, p.slices) for p in stored] == [(k, "identity", version.slices) for k in (0, 1)]
    for member in (1, 2):
        assert len(project.store.predictions(member, role="evaluation", version_id=version.id)) == 4
    assert ichx("evaluate", number, "--dataset", "other", "--pooling", "learnt", cwd=root).code == 0
    refused = ichx("evaluate", 1, "--dataset", "other", "--pooling", "learnt", cwd=root)
    assert (refused.code, "--pooling max" in refused.err) == (1, True)
    written = [pd.Timestamp(p.created) for p in stored]
    assert ichx("evaluate", number, "--dataset", "other", "--tta", "hflip", cwd=root).code == 0
    again = project.store.predictions(number, role="evaluation", version_id=version.id)
    assert [pd.Timestamp(p.created) for p in again] == written
