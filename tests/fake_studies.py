"""A studies API with chosen slices, for tests of the viewer: its answers are those of the real one."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import numpy.typing as npt
import pytest
from web_site import Serve, Served

from ichx.labels import LABELS, SUBTYPES

SOURCE, STUDY = "set@1", "study-1"


def hu_of(index: int, shape: tuple[int, int] = (32, 32)) -> npt.NDArray[np.int16]:
    """Return the HU of a slice: a ramp over all int16 values in slice 0, padding and brain elsewhere."""
    if index == 0:
        return np.linspace(-32768, 32767, shape[0] * shape[1]).round().astype(np.int16).reshape(shape)
    image = np.random.default_rng(index).integers(-60, 140, shape).astype(np.int16)
    image[0] = -2000
    image[-1, :4] = (-32768, 32767, 0, 3071)
    return image


@dataclass
class FakeStudies:
    """The study, what is wrong with it, and the requests that it received."""

    count: int = 9
    """Number of slices."""
    shape: tuple[int, int] = (32, 32)
    sizes: tuple[int, ...] = (32,)
    damaged: frozenset[int] = frozenset()
    """Indices of slices whose pixels cannot be read."""
    reviews: list[dict[str, Any]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    """How far the prediction of files is, one after the other."""
    indexing: list[str] = field(default_factory=list)
    """What the server reports until the index is built, one after the other."""
    requests: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Values of every slice that differ from the usual ones."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Values of the study that differ from the usual ones."""

    def slices(self, series: int = 0) -> list[dict[str, Any]]:
        """Return the slices of a series as the API describes them."""
        usual = {
            "rows": self.shape[0], "columns": self.shape[1], "spacing": [0.5, 0.5], "thickness": 5.0,
            "side": {"left": "R", "right": "L"}, "header_window": [35.0, 90.0], "weight": None, "fold": 2, "flags": [],
            "reviews": 0,
        }  # fmt: skip
        return [
            usual
            | {
                "id": f"{'ab'[series]}{i}",
                "position": 5.0 * i,
                "labels": {label: int(i >= 4 and label in ("subdural", "any")) for label in LABELS},
                "mask": i == 4,
            }
            | self.facts
            for i in range(self.count)
        ]

    def study(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        if request.path_params["study"] != STUDY:
            return _error("No such study.", 404)
        if self.indexing:
            return _error(self.indexing.pop(0), 409, "not_ready")
        usual = {
            "source": SOURCE, "study": STUDY, "patient": "patient-1", "fold": 2, "defects": [],
            "series": [{"series": "series-a", "flags": [], "order": "head to foot", "slices": self.slices()}],
            "pixels": {"sizes": list(self.sizes), "version": "d1", "problem": None, "remedy": None},
            "predictors": [
                {"of": "experiment:1", "name": "first", "score": 0.0712, "folds": [0, 1]},
                {"of": "ensemble:2", "name": "both", "score": None, "folds": [0, 1]},
            ],
        }  # fmt: skip
        return JSONResponse(usual | self.changes)

    def pixels(self, request: Any) -> Any:
        from starlette.responses import Response

        name = request.path_params["slice"]
        self.requests.append(str(request.url).partition("/api")[2])
        index = int(name[1:])
        if index in self.damaged:
            return _error(f"Slice {name} is damaged: 3 bytes of 9.", 500)
        image = hu_of(index + 100 * (name[0] == "b"), self.shape)
        headers = {"X-Rows": str(image.shape[0]), "X-Columns": str(image.shape[1])}
        headers["Cache-Control"] = "private, max-age=31536000, immutable"
        return Response(image.astype("<i2").tobytes(), media_type="application/octet-stream", headers=headers)

    def block(self, request: Any) -> Any:
        """Return several slices; those that are damaged are missing."""
        from starlette.responses import Response

        names = request.query_params.getlist("slice")
        self.requests.append(str(request.url).partition("/api")[2])
        there = [name for name in names if int(name[1:]) not in self.damaged]
        images = [hu_of(int(name[1:]) + 100 * (name[0] == "b"), self.shape) for name in there]
        headers = {"X-Rows": str(self.shape[0]), "X-Columns": str(self.shape[1]), "X-Spacing": ";" * (len(names) - 1)}
        headers["X-Missing"] = ",".join(str(i) for i, name in enumerate(names) if name not in there)
        headers["Cache-Control"] = "private, max-age=31536000, immutable"
        body = b"".join(image.astype("<i2").tobytes() for image in images)
        return Response(body, media_type="application/octet-stream", headers=headers)

    def predictions(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        of = request.query_params["of"]
        self.requests.append(f"/predictions?of={of}")
        names = {"experiment:1": ["CNN", "TTA", "smoothed"], "ensemble:2": ["ensemble"]}.get(of)
        if names is None:
            return _error(f"No {of}.", 404)
        curves = [
            {
                "name": name,
                "view": "identity",
                "probabilities": {one["id"]: probabilities(i, number) for i, one in enumerate(self.slices())},
            }
            for number, name in enumerate(names)
        ]
        return JSONResponse({"of": of, "curves": curves, "out_of_fold": of == "experiment:1", "problem": None})

    async def state(self, request: Any) -> Any:
        """Start a prediction of files, or return how far it is: the next of `states` with each request."""
        from starlette.responses import JSONResponse

        of = (await request.json())["of"] if request.method == "POST" else request.query_params["of"]
        self.requests.append(f"{request.method} {of}")
        if request.method == "POST" or self.states[0]["state"] == "running":
            self.states.pop(0)
        return JSONResponse(
            {"of": of, "what": "", "done": 0, "total": 0, "problem": None, "remedy": None, **self.states[0]}
        )

    def overlay(self, request: Any) -> Any:
        from starlette.responses import Response

        query = dict(request.query_params)
        self.requests.append(f"/overlays/{request.path_params['slice']}?{request.url.query}")
        if query["kind"] == "predicted_mask":
            return _error("This experiment predicts no masks.", 404)
        values = np.zeros((8, 8), np.uint8)
        values[2:6, 2:6] = 255 if query.get("of") != "ensemble:2" else 128
        meaning = {"mask": "marked by a reader", "heat": f"Grad-CAM of {query['label']}"}[query["kind"]]
        headers = {"X-Rows": "8", "X-Columns": "8", "X-Maximum": "0.25", "X-Meaning": meaning}
        return Response(values.tobytes(), media_type="application/octet-stream", headers=headers)

    async def review(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        self.reviews.append(await request.json())
        return JSONResponse({"review": {"id": len(self.reviews)}})

    def withdraw(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        self.reviews[request.path_params["id"] - 1]["slice"] = "withdrawn"
        return JSONResponse({"review": {}})

    def reviews_of(self, request: Any) -> Any:
        from starlette.responses import JSONResponse

        shown = [
            {"id": i + 1, **one} for i, one in enumerate(self.reviews) if one["slice"] == request.path_params["slice"]
        ]
        return JSONResponse({"reviews": shown})

    def page(self) -> Any:
        """Return a page module with the routes of the API."""
        from starlette.routing import Route

        return SimpleNamespace(
            ROUTES=(
                Route("/api/studies/{source}/{study}", self.study),
                Route("/api/pixels/{source}", self.block),
                Route("/api/pixels/{source}/{slice:path}", self.pixels),
                Route("/api/predictions/{source}/{study}", self.predictions),
                Route("/api/predictions/{source}", self.state, methods=["GET", "POST"]),
                Route("/api/overlays/{source}/{slice:path}", self.overlay),
                Route("/api/reviews", self.review, methods=["POST"]),
                Route("/api/reviews/{id:number}/withdraw", self.withdraw, methods=["POST"]),
                Route("/api/reviews/{source}/{slice:path}", self.reviews_of),
            )
        )

    def pixel_requests(self) -> list[str]:
        """Return the names of the slices whose pixels were requested, alone or with others."""
        found = []
        for one in self.requests:
            path, _, query = one.partition("?")
            if path.startswith("/pixels"):
                found += parse_qs(query).get("slice") or [path.rpartition("/")[2]]
        return found


def probabilities(index: int, number: int) -> list[float]:
    """Return the six probabilities of a slice."""
    return [round(0.01 * (index + 1) + 0.1 * number + 0.02 * column, 4) for column in range(len(SUBTYPES) + 1)]


def _error(problem: str, status: int, code: str = "fake") -> Any:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": {"code": code, "problem": problem, "remedy": "Read `ichx --help`."}}, status)


ServeStudies = Callable[..., tuple[Served, FakeStudies]]


@pytest.fixture
def serve_studies(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ServeStudies:
    """Return `serve_studies(**values of FakeStudies)`: it serves an empty workspace with that study."""
    pytest.importorskip("starlette")
    from ichx.web import app
    from ichx.workspace import init_workspace

    def start(*, read_only: bool = False, **values: Any) -> tuple[Served, FakeStudies]:
        fake = FakeStudies(**values)
        monkeypatch.setattr(app, "PAGES", (fake.page(), *app.PAGES))
        init_workspace(tmp_path / "w")
        return serve(tmp_path / "w", read_only=read_only), fake

    return start
