"""Helpers for tests of reports: a workspace with trained experiments and ensembles, and a parser of pages."""

from html.parser import HTMLParser
from pathlib import Path

from dicom_files import write_study

from ichx.datasets.add import AddRequest, add_dataset
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.labels import LABELS
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.report.build import render
from ichx.report.collect import collect_experiment
from ichx.store import Store, open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import Workspace, init_workspace

COMPLETE, PARTIAL, NEW, OTHER = 1, 2, 3, 4
NAME = "<b>tiny & co</b>"
TRUTH = (
    (1, "subdural"),
    (2, "intraventricular"),
    (3, "subdural"),
)  # by remainder of the slice's position; none for the others


def train(folder: Path) -> Workspace:
    """Return a workspace with two complete experiments, a partial one and a new one.

    Ensemble 1 blends the complete ones; ensemble 2 covers a single fold.
    """
    workspace = init_workspace(folder / "workspace")
    lines = ["ID,Label"]
    for patient in range(4):
        for position, slice_id in enumerate(write_study(folder / "files", str(patient), 6)):
            positive = {label for remainder, label in TRUTH if position % 4 == remainder}
            positive |= {"any"} if positive else set()
            lines += [f"{slice_id}_{label},{int(label in positive)}" for label in LABELS]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    registry = load_registry()
    stages = ("balanced", "rebalanced", "full")
    settings = (
        "batch=4",
        "input.size=32",
        "input.crop=0",
        *(f"stage.{s}.{v}" for s in stages for v in ("epochs=1", "milestones=[]")),
    )
    with open_store(workspace) as store:
        add_dataset(
            Project(workspace, store), AddRequest("small", folder / "files", labels=folder / "labels.csv", folds=2)
        )
        for name in (NAME, "half", "never"):
            new_experiment(store, registry, ExperimentRequest(plugin="tiny_byobnet", settings=settings, name=name))
        new_experiment(store, registry, ExperimentRequest(plugin="tiny_resnet", settings=settings, name="other"))
        options = RunOptions(device="cpu", workers=0)
        run_experiment(Project(workspace, store, registry), COMPLETE, options=options)
        run_experiment(Project(workspace, store, registry), PARTIAL, folds=[1], options=options)
        run_experiment(Project(workspace, store, registry), OTHER, options=options)
        make_ensemble(Project(workspace, store), EnsembleRequest())
        make_ensemble(Project(workspace, store), EnsembleRequest(tta="none", members=(COMPLETE, PARTIAL)))
    return workspace


class Page(HTMLParser):
    """A parsed page: open tags, referenced addresses, tables by id, ids, images without a name, text."""

    VOID = ("meta", "br", "link", "img", "input", "hr", "image", "use")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.ids: list[str] = []
        self.named: list[str] = []
        self.unnamed: list[str] = []
        self.text = ""
        self._table = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.open += [tag] if tag not in self.VOID else []
        self.addresses += [values[a] or "" for a in ("href", "src", "xlink:href", "action", "data") if a in values]
        self.ids += [values["id"] or ""] if "id" in values else []
        self.named += [values.get("aria-labelledby") or ""] if "aria-labelledby" in values else []
        self.unnamed += [tag] if tag == "img" and not values.get("alt") else []
        self.unnamed += (
            [tag] if values.get("role") == "img" and not values.keys() & {"aria-label", "aria-labelledby"} else []
        )
        if tag == "table":
            self._table = values.get("id") or f"table {len(self.tables)}"
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag in ("td", "th"):
            self.tables[self._table][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[self._table][-1][-1] += data.strip()


def experiment_page(workspace: Workspace, store: Store, number: int) -> tuple[str, Page]:
    return parse(render(collect_experiment(Project(workspace, store), number)))


def parse(html: str) -> tuple[str, Page]:
    page = Page(html)
    assert page.open == []
    return html, page
