"""The page of jobs: the recorded states, logs, refresh and cancel through the engines, read-only."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from file_engine import FileEngine
from simulated_run import new_one, open_copy
from web_site import Serve

from ichx.jobs import Job
from ichx.jobs.recorded_engine import RecordedEngine
from ichx.store import JobChange, JobDraft
from ichx.workspace import Workspace, open_workspace


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileEngine]:
    """The scheduler of all jobs, which holds them."""
    engine = FileEngine(tmp_path / "queue")
    (engine.folder / "hold").touch()

    def open_engine(workspace: Workspace, name: str, slots: int) -> FileEngine:
        return engine

    monkeypatch.setattr("ichx.jobs.engines.open_engine", open_engine)
    yield engine
    for job in engine.folder.glob("*/*/job.json"):
        engine.kill(f"file:{job.parent.parent.name}_{job.parent.name}")


def submit(root: Path, engine: FileEngine, number: int, name: str = "train fold 0") -> str:
    """Queue a job; return its submission."""
    with open_copy(root) as store:
        recorded = RecordedEngine(engine, store, open_workspace(root))
        log = root / "experiments" / str(number) / "fold-0" / "run.log"
        recorded.submit([Job(argv=("sleep", "60"), log=log, name=name, experiment=number, fold=0)])
        return store.jobs()[-1].submission


def test_jobs_are_listed_without_asking_and_refreshed_and_cancelled_on_request(
    dataset_copy: Path, queue: FileEngine, serve: Serve
) -> None:
    with open_copy(dataset_copy) as store:
        number = new_one(store)
    submission = submit(dataset_copy, queue, number)
    with serve(dataset_copy).client() as client:
        page = client.get("/jobs").text
        assert "train fold 0" in page
        assert f'href="/experiments/{number}?fold=0"' in page
        assert f"{submission}/0" in page
        shown = client.get(f"/jobs/{submission}/0")
        assert "train fold 0" in shown.text
        assert client.get(f"/api/jobs/{submission}/0/log").json()["missing"]
        assert queue.asked == 0
        assert client.post("/api/jobs/refresh", json={}).json() == {"problems": []}
        assert queue.asked == 1
        answer = client.post("/api/jobs/cancel", json={"jobs": [[submission, 0]]})
        assert answer.json() == {"asked": 1, "submitting": 0, "problems": []}
        with open_copy(dataset_copy) as store:
            handle = store.jobs()[0].handle
        assert handle is not None
        queue.wait(handle)
        client.post("/api/jobs/refresh", json={})
        assert '<span class="state">cancelled</span>' in client.get("/jobs").text
        again = client.post("/api/jobs/cancel", json={"jobs": [[submission, 0]]})
        assert again.json()["asked"] == 0  # it has ended


def test_filters_pages_and_bad_requests(dataset_copy: Path, serve: Serve) -> None:
    with open_copy(dataset_copy) as store:
        number = new_one(store)
        for index in range(3):
            draft = JobDraft(f"jobs-{index}", 0, "slurm", "fold", f"job {index} <b>&", "log")
            (record,) = store.add_jobs([draft])
            store.set_handles(draft.submission, [f"slurm:{index}"])
            store.update_jobs({record.id: JobChange("lost" if index else "done", reason="<i>why</i>")})
        for n in range(110):
            draft = JobDraft(f"many-{n}", 0, "slurm", "fold", f"many {n}", "x.log", number, None)
            store.update_jobs({store.add_jobs([draft])[0].id: JobChange("done")})
    with serve(dataset_copy).client() as client:
        lost = client.get("/jobs?state=lost").text
        assert "job 1 &lt;b&gt;&amp;" in lost
        assert "job 0" not in lost
        assert "<i>why" not in lost
        first = client.get("/jobs?state=done").text
        assert first.count("<tr>") == 101
        assert "many 109" in first
        assert "limit=200" in first
        assert client.get("/jobs?state=done&limit=200").text.count("<tr>") == 112
        assert client.get(f"/jobs?experiment={number}&limit=200").text.count("<tr>") == 111
        for path, status in (
            ("/jobs?state=asleep", 400),
            ("/jobs?experiment=x", 400),
            ("/jobs?experiment=99", 404),
            ("/jobs?limit=x", 400),
            ("/jobs/none/0", 404),
            ("/jobs/jobs-1/1", 404),
        ):
            assert client.get(path).status_code == status, path
        for body in ({}, {"jobs": "x"}, {"jobs": [["a"]]}, {"jobs": [[1, 2]]}, {"jobs": [["a", True]]}):
            assert client.post("/api/jobs/cancel", json=body).status_code == 400, body
        assert client.post("/api/jobs/cancel", json={"jobs": [["none", 0]]}).status_code == 404


def test_read_only_hides_and_refuses_changes(dataset_copy: Path, serve: Serve) -> None:
    with open_copy(dataset_copy) as store:
        store.add_jobs([JobDraft("one", 0, "slurm", "fold", "job", "x.log")])
    with serve(dataset_copy, read_only=True).client() as client:
        for path in ("/jobs", "/jobs/one/0"):
            page = client.get(path).text
            assert 'id="cancel"' not in page
            assert 'id="refresh"' not in page
        for path in ("/api/jobs/refresh", "/api/jobs/cancel"):
            assert client.post(path, json={"jobs": [["one", 0]]}).status_code == 409


def test_logs_outside_the_workspace_are_not_served(dataset_copy: Path, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "secret.log").write_text("hush")
    (dataset_copy / "link.log").symlink_to(tmp_path / "secret.log")
    paths = (str(tmp_path / "secret.log"), "../secret.log", "link.log", "x/../../secret.log")
    with open_copy(dataset_copy) as store:
        for index, log in enumerate(paths):
            store.add_jobs([JobDraft(f"job-{index}", 0, "slurm", "fold", f"job {index}", log)])
    with serve(dataset_copy).client() as client:
        for index in range(len(paths)):
            answer = client.get(f"/api/jobs/job-{index}/0/log")
            assert answer.status_code == 404
            assert "hush" not in answer.text
            assert client.get(f"/jobs/job-{index}/0").status_code == 200
