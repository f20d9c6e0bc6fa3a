"""Quick looks: experiments that train another experiment's recipe on a share of its patients.

A quick look has its own number, folder and mark, so that its score is never taken for that of the full experiment.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

from ichx.datasets.dataset import load_folds, load_version
from ichx.datasets.patient_subset import subset_folds
from ichx.errors import ConflictError, InvalidInputError, NotFoundError
from ichx.experiments.register import draft
from ichx.recipe_text import from_toml
from ichx.store import Selection, require_network

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment


def quick_look(project: "Project", number: int, share: float, *, register: bool = True) -> "Experiment":
    """Return the experiment that trains the recipe of `number` on a `share` of the patients of each fold.

    With `register`, the first call registers it, with `number` as its parent.

    Raises:
        InvalidInputError: The share is not between 0 and 1, or a fold would have no patient.
        ConflictError: The experiment is trained on a part of the patients already.
        NotFoundError: There is no such experiment, or no such quick look that could be returned without `register`.
    """
    if not 0 < share < 1:
        raise InvalidInputError(
            f"Invalid value for --subset: {share:g}.", "Use a share of the patients above 0 and below 1, e.g. 0.05."
        )
    model = project.store.experiment(number)
    require_network(model, "run it")
    if model.subset < 1:
        full = "the full experiment" if model.parent is None else f"experiment {model.parent}"
        raise ConflictError(
            f"Experiment {number} is trained on {100 * model.subset:.3g} % of the patients already.",
            f"Leave out --subset, or use it with {full}.",
        )
    for known in project.store.experiments(Selection(parent=number, archived=None), limit=None):
        if known.subset == share and project.store.experiment(known.number).recipe_digest == model.recipe_digest:
            return project.store.experiment(known.number)
    if not register:
        raise NotFoundError(
            f"There is no quick look at experiment {number} with {100 * share:.3g} % of the patients.",
            f"Run `ichx run {number} --subset {share:g}` first, in one process.",
        )
    version = project.store.version_by_id(model.version_id)
    fold_set = version.fold_set(model.fold_set)
    slices = load_version(project.workspace, version).slices
    subset_folds(slices, load_folds(project.workspace, version, fold_set, slices), share)  # raises if it is too small
    drafted = draft(
        from_toml(model.recipe),
        version,
        folds=model.fold_set,
        name=f"{model.name}-subset-{share:g}",
        parent=number,
        members=model.members,
    )
    return project.store.add_experiments([replace(drafted, selected=model.selected, subset=share)])[0]
