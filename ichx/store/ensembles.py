"""Queries for ensembles and their members, over an open connection."""

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from ichx.errors import NotFoundError
from ichx.store.clock import store_time
from ichx.store.ensemble_snapshots import Ensemble, EnsembleDraft, EnsembleMember
from ichx.store.experiments import of_other_tools
from ichx.store.tables import TRANSDUCTIVE, dataset_version, ensemble, ensemble_member, experiment

_MARKS = {"selected": experiment.c.selected, "leaked": experiment.c.leaked, "transductive": TRANSDUCTIVE}
"""Marks of a member that are those of its ensembles, with their columns."""
_UNMARKED = dict.fromkeys(_MARKS, False)


def add_ensemble(
    connection: Connection, draft: EnsembleDraft, number: int, created: datetime | None = None
) -> Ensemble:
    """Record an ensemble and its members under `number`, created now or at `created`."""
    version = select(dataset_version.c.dataset).where(dataset_version.c.id == draft.version_id)
    if connection.scalar(version) != draft.dataset:
        raise ValueError(f"dataset version {draft.version_id} is not a version of {draft.dataset}")
    values = {
        **vars(draft),
        "number": number,
        "submissions": list(draft.submissions),
        "created": created or store_time(connection),
    }
    del values["dataset"], values["members"]
    connection.execute(insert(ensemble).values(values))
    members = [{**vars(m), "ensemble": number, "position": i} for i, m in enumerate(draft.members)]
    if members:
        connection.execute(insert(ensemble_member), members)
    return get_ensemble(connection, number)


def get_ensemble(connection: Connection, number: int) -> Ensemble:
    """Return ensemble `number`."""
    found = _read(connection, ensemble.c.number == number)
    if not found:
        known = connection.scalars(select(ensemble.c.number).order_by(ensemble.c.number)).all()
        remedy = f"Ensembles: {', '.join(map(str, known))}." if known else "`ichx ensemble` creates the first one."
        raise NotFoundError(f"There is no ensemble {number}.", remedy)
    return found[0]


def rename_ensemble(connection: Connection, number: int, name: str | None) -> None:
    """Name ensemble `number`; None removes its name."""
    get_ensemble(connection, number)
    connection.execute(update(ensemble).where(ensemble.c.number == number).values(name=name))


def add_submission(connection: Connection, number: int, path: str) -> None:
    """Record a submission of ensemble `number`, if it is not recorded yet."""
    found = get_ensemble(connection, number)
    if path not in found.submissions:
        changed = update(ensemble).where(ensemble.c.number == number)
        connection.execute(changed.values(submissions=[*found.submissions, path]))


def delete_ensemble(connection: Connection, number: int) -> None:
    """Delete ensemble `number`. Its number is not reused."""
    get_ensemble(connection, number)
    connection.execute(delete(ensemble_member).where(ensemble_member.c.ensemble == number))
    connection.execute(delete(ensemble).where(ensemble.c.number == number))


def list_ensembles(connection: Connection) -> list[Ensemble]:
    """Return all ensembles, oldest first."""
    return _read(connection)


def _read(connection: Connection, *conditions: Any) -> list[Ensemble]:
    of_member = ensemble_member.c.ensemble == ensemble.c.number
    members: dict[int, tuple[EnsembleMember, ...]] = {}
    order = (ensemble_member.c.ensemble, ensemble_member.c.position)
    marked: dict[int, dict[str, bool]] = {}
    for row in connection.execute(
        select(ensemble_member, *(column.label(name) for name, column in _MARKS.items()))
        .join(ensemble, of_member)
        .join(experiment, experiment.c.number == ensemble_member.c.experiment)
        .join(dataset_version, dataset_version.c.id == experiment.c.version_id)
        .where(*conditions)
        .order_by(*order)
    ):
        member = EnsembleMember(experiment=row.experiment, weight=row.weight, score=row.score)
        members[row.ensemble] = (*members.get(row.ensemble, ()), member)
        before = marked.get(row.ensemble, _UNMARKED)
        marked[row.ensemble] = {name: before[name] or getattr(row, name) for name in _MARKS}
    query = (
        select(ensemble, dataset_version.c.dataset)
        .join(dataset_version, dataset_version.c.id == ensemble.c.version_id)
        .where(*conditions)
        .order_by(ensemble.c.number)
    )
    found, of_others = [], of_other_tools(connection)
    for row in connection.execute(query):
        own = members.get(row.number, ())
        external = any(member.experiment in of_others for member in own)
        values = {**row._mapping, "submissions": tuple(row.submissions)} | marked.get(row.number, _UNMARKED)
        found.append(Ensemble(**values, members=own, external=external))
    return found
