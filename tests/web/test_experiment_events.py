"""Server-sent events of an experiment whose run records epochs meanwhile."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from simulated_run import epoch_record, new_one, open_copy, record, start
from web_site import Serve, Served, serving

from ichx.store import PredictionDraft, ScoreDraft, Store
from ichx.web.experiment_live import Client, FoldHistory, LiveState


@contextmanager
def events(served: Served, number: int, *, since: str = "", header: str | None = None) -> Iterator[Iterator[Any]]:
    """Yield the events of a stream: `(name, id, data)`."""
    headers = {} if header is None else {"Last-Event-ID": header}
    url = f"/api/experiments/{number}/events"
    with served.client() as client, client.stream("GET", url, params={"since": since}, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")

        def parsed() -> Iterator[Any]:
            found: dict[str, str] = {}
            for line in response.iter_lines():
                name, _, value = line.partition(": ")
                if not line and "data" in found:
                    yield found["event"], found["id"], json.loads(found["data"])
                    found = {}
                elif line:
                    found[name] = value

        yield parsed()


def next_with(stream: Iterator[Any], part: str) -> Any:
    """Return the id and value of the next update with `part`."""
    for name, id_, data in stream:
        if name == "update" and part in data:
            return id_, data[part]
    raise AssertionError("the stream ended")


def finish(store: Store, number: int, run: Any, fold: int) -> None:
    version = store.experiment(number).version_id
    draft = PredictionDraft(number, fold, version, "oof", "identity", f"experiments/{number}/x", 10, "0" * 64, 0.1)
    store.finish_run(run.id, "done", predictions=[draft])


def test_epochs_arrive_while_they_are_recorded_and_the_stream_ends_with_the_run(
    dataset_copy: Path, serve: Serve
) -> None:
    with open_copy(dataset_copy) as store:
        number = new_one(store)
        with events(serve(dataset_copy), number) as stream:
            status = next_with(stream, "status")[1]
            assert (status["state"], status["folds"]) == ("new", "0 of 2")
            run = start(store, number)  # after the page was opened
            assert next_with(stream, "status")[1]["runs"][0]["state"] == "running"
            record(store, run, 0)
            began = time.monotonic()
            _, folds = next_with(stream, "folds")
            assert time.monotonic() - began < 2
            assert folds["0"]["loss"] == [[1], [1.0]]
            record(store, run, 1)
            assert next_with(stream, "folds")[1]["0"]["loss"] == [[2], [0.5]]  # only the new one
            for fold in (0, 1):
                finish(store, number, run if fold == 0 else start(store, number, 1), fold)
            store.set_scores(number, ScoreDraft(0.1, None, 0.05, 0.2), ScoreDraft(0.1))
            rest = list(stream)
            assert rest[-1][0] == "end"
            assert rest[-2][2]["status"]["state"] == "done"


def test_the_status_has_throughput_memory_and_time_left(dataset_copy: Path, serve: Serve) -> None:
    with open_copy(dataset_copy) as store:
        number = new_one(store)
        run = start(store, number, 1)
        record(store, run, 0)
        with events(serve(dataset_copy), number) as stream:
            row = next_with(stream, "status")[1]["runs"][1]
    assert (row["rate"], row["memory"], row["epochs"], row["left"]) == ("123/s", "1.50 GB", "1/9", "2 min 40 s")


def test_a_client_resumes_where_it_was_also_with_another_server(dataset_copy: Path) -> None:
    with open_copy(dataset_copy) as store:
        number = new_one(store)
        run = start(store, number)
        record(store, run, 0)
        with serving(dataset_copy) as served, events(served, number) as stream:
            cursor, _ = next_with(stream, "folds")
        record(store, run, 1)
        record(store, run, 2)
        with serving(dataset_copy) as served:
            with events(served, number, since="0:9:9", header=cursor) as stream:
                _, _, data = next(stream)
            assert (data["folds"]["0"]["loss"][0], data["replace"]) == ([2, 3], [])
            with events(served, number, since=cursor) as stream:
                assert next(stream)[2]["folds"]["0"]["loss"][0] == [2, 3]
            for invalid in ("0:1:5", "x", "0:-1:2,::", "9" * 400, "0:5000000:1"):
                with events(served, number, since=invalid) as stream:
                    _, _, data = next(stream)
                assert (data["folds"]["0"]["loss"][0], data["replace"]) == ([1, 2, 3], [0])


def test_clients_share_one_reader_and_without_clients_nothing_is_read(
    dataset_copy: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_copy(dataset_copy) as store:
        number = new_one(store)
    served = serve(dataset_copy)
    reads: list[int] = []
    read = served.site.project.store.runs
    monkeypatch.setattr(served.site.project.store, "runs", lambda *a: reads.append(1) or read(*a))
    with events(served, number) as one, events(served, number) as two, events(served, number) as three:
        for stream in (one, two, three):
            assert next(stream)[0] == "update"
        assert len(reads) <= 2
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:  # the server notices that they have left
        before = len(reads)
        time.sleep(1.5)
        if len(reads) == before:
            break
    assert len(reads) == before


def test_the_server_ends_although_a_stream_is_open(dataset_copy: Path) -> None:
    with open_copy(dataset_copy) as store:
        number = new_one(store)
    ended = threading.Event()
    with serving(dataset_copy) as served:

        def follow() -> None:
            try:
                with events(served, number) as stream:
                    for _ in stream:
                        started.set()
            except httpx.RemoteProtocolError:  # the response is cut off
                ended.set()

        started = threading.Event()
        threading.Thread(target=follow, daemon=True).start()
        assert started.wait(30)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert ended.wait(10)


def test_an_unknown_experiment_is_an_error_and_no_stream(dataset_copy: Path, serve: Serve) -> None:
    with serve(dataset_copy).client() as client:
        answer = client.get("/api/experiments/77/events")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
        assert "77" in answer.json()["error"]["problem"]
        assert client.get("/api/experiments/x/events").status_code == 404
    assert httpx.get(serve(dataset_copy).url + "/api/experiments/1/events").status_code == 401


def test_epochs_that_a_later_run_trains_again_replace_those_that_a_client_has() -> None:
    def state(*losses: float) -> LiveState:
        records = [epoch_record(i, loss=loss) for i, loss in enumerate(losses)]
        return LiveState((), {0: FoldHistory.of((len(losses),), records)}, {}, over=False)

    client = Client()
    assert [u["replace"] for u in client.updates(state(1.0, 2.0))] == [[0]]
    assert list(client.updates(state(1.0, 2.0))) == []
    (update,) = client.updates(state(1.0, 2.0, 3.0))
    assert (update["replace"], update["folds"]["0"]["loss"]) == ([], [[3], [3.0]])
    (update,) = client.updates(state(1.0, 2.5, 3.0))
    assert (update["replace"], update["folds"]["0"]["loss"][1]) == ([0], [1.0, 2.5, 3.0])
    (update,) = client.updates(state(1.0))
    assert (update["replace"], update["folds"]["0"]["loss"][1]) == ([0], [1.0])
