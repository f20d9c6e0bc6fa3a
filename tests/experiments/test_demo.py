"""The demo's steps when it is rerun."""

import shutil
from dataclasses import replace

import pytest

from ichx.evaluation.ensemble import EnsembleRequest
from ichx.experiments.demo import blend_once
from ichx.project import Project

pytestmark = pytest.mark.slow


def test_a_finished_blend_is_not_made_again(project: Project) -> None:
    request = EnsembleRequest(members=(1, 2))
    first = blend_once(project, request)
    assert blend_once(project, request) == first
    assert [e.number for e in project.store.ensembles()] == [first.ensemble.number]
    assert blend_once(project, replace(request, smooth=False)).ensemble.number == 2
    assert blend_once(project, replace(request, tta="none")).ensemble.number == 3
    assert blend_once(project, EnsembleRequest(members=(1,))).ensemble.number == 4
    (project.workspace.root / first.submissions[0].path).unlink()
    assert blend_once(project, request).ensemble.number == 5
    for number in (1, 2):
        files = project.workspace.experiment_files(number)
        shutil.copy(files.fold(1).weights, files.fold(0).weights)
    project.store.delete_ensemble(5)
    assert blend_once(project, request).ensemble.number == 6
