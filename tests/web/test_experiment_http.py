"""The page of an experiment over HTTP: content, files, logs, report, scores, and text that is no markup."""

import asyncio
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from simulated_run import epoch_record, new_one, open_copy, record, start
from web_site import Serve

from ichx.evaluation.subgroup_scores import oof_predictions, reported_subgroups
from ichx.web.served_files import FileContent, open_inside

INJECTIONS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</script><svg onload=alert(1)>",
    "{{ 7 * 7 }}",
    "' onmouseover='alert(1)",
    "\u202eevil",
)


def test_the_page_has_scores_with_intervals_runs_files_and_changed_values(trained_root: Path, serve: Serve) -> None:
    served = serve(trained_root)
    with served.client() as client:
        page = client.get("/experiments/1").text
        experiment = served.site.project.store.experiment(1)
    for text in (experiment.name, f"{experiment.score:.5f}", "fold-0/weights.safetensors", "stage.balanced.epochs"):
        assert text in page
    assert re.search(r'<tr><th scope="row">stage.balanced.milestones</th><td>\[1, 2\]</td>', page)
    assert re.search(r'<tr class="same"><th scope="row">\w', page)
    assert 'id="recipe-values" class="only-changed"' in page
    with served.client() as client:
        assert 'id="recipe-values">' in client.get("/experiments/1?recipe=all").text
        missing = client.get("/experiments/99")
    assert missing.status_code == 404
    assert "99" in missing.text


def test_scores_by_fold_and_label(trained_root: Path, serve: Serve) -> None:
    served = serve(trained_root)
    experiment = served.site.project.store.experiment(1)
    with served.client() as client:
        plain, flipped = client.get("/api/experiments/1/scores"), client.get("/api/experiments/1/scores?view=hflip")
    assert f"{experiment.score:.5f}" in plain.text
    assert f"{experiment.score_tta:.5f}" in flipped.text
    for one in served.site.project.store.predictions(1, role="oof", view="identity"):
        assert f"{one.score:.5f}" in plain.text
    for label in ("epidural", "any"):
        assert label in plain.text


def test_subgroups_are_those_of_the_report(trained_root: Path, serve: Serve) -> None:
    served = serve(trained_root)
    project = served.site.project
    expected = reported_subgroups(oof_predictions(project, 1))
    assert expected
    with served.client() as client:
        answer = client.get("/api/experiments/1/subgroups")
        page = client.get("/experiments/1").text
    assert answer.status_code == 200
    assert 'data-source="/api/experiments/1/subgroups"' in page
    tables = re.findall(r"<caption>By ([^<]*)</caption>.*?</table>", answer.text, re.DOTALL)
    assert [name.strip() for name in tables] == [field.replace("_", " ") for field in expected]
    for groups in expected.values():
        for group in groups:
            small = ' class="quiet"' if group.slices.small else ""
            row = re.search(
                rf'<tr{small}><th scope="row">{re.escape(group.slices.name.replace("<", "&lt;"))}</th>(.*?)</tr>',
                answer.text,
            )
            assert row is not None
            counts = re.findall(r'<td class="number">([\d,]+|-)</td>', row[1])[:3]
            assert counts == [f"{n:,}" for n in (group.slices.patients, group.slices.rows, group.slices.positives)]


def test_scores_before_a_fold_is_finished_are_an_error(dataset_copy: Path, serve: Serve) -> None:
    with open_copy(dataset_copy) as store:
        number = new_one(store)
    with serve(dataset_copy).client() as client:
        assert client.get(f"/api/experiments/{number}/subgroups").status_code == 409
        answer = client.get(f"/api/experiments/{number}/scores")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "not_ready")


def test_downloads_of_fixed_kinds(trained_copy: Path, serve: Serve) -> None:
    folder = trained_copy / "experiments" / "1"
    for name in ("notes.txt", "checkpoint-000-00001-000000001.pt", ".hidden.json", "fold-0/.secret/x.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("hush")
    (folder / "link.json").symlink_to(trained_copy / "db" / "workspace.json")
    (folder / "linked").symlink_to(trained_copy / "db")
    (folder / "inner.log").symlink_to(folder / "fold-0" / "run.log")
    (folder / "dir.json").mkdir()
    (folder / "a b&#'\".json").write_text("{}")
    with serve(trained_copy).client() as client:
        page = client.get("/experiments/1").text
        found = client.get("/experiments/1/files/fold-0/weights.safetensors")
        assert found.content == (folder / "fold-0" / "weights.safetensors").read_bytes()
        assert found.headers["content-disposition"] == 'attachment; filename="experiment-1-fold-0-weights.safetensors"'
        assert found.headers["content-type"] == "application/octet-stream"
        assert found.headers["x-content-type-options"] == "nosniff"
        for listed in re.findall(r'href="(/experiments/1/files/[^"]+)"', page):
            assert client.get(listed).status_code == 200, listed
        for name in (
            *("notes.txt", "checkpoint-000-00001-000000001.pt", ".hidden.json", "fold-0/.secret/x.json", "dir.json"),
            *("link.json", "linked/workspace.json", "inner.log", "missing.json", "fold-0", ""),
            *("..%2f2%2fexperiment.json", "%2e%2e/2/experiment.json", "fold-0/..%2f..%2f2/experiment.json"),
            *("%2fetc%2fhosts.json", "/etc/hosts.json", "fold-0//run.log", "fold-0%5crun.log", "x%00.json", "..json"),
            *("....//experiment.json", "a" * 300 + ".json", "a/" * 1000 + "x.json", "fold-0/run.log/x.json"),
        ):
            refused = client.get(f"/experiments/1/files/{name}")
            assert refused.status_code in (404, 307), name
            assert "hush" not in refused.text
            assert '"id"' not in refused.text
        assert client.get("/experiments/99/files/experiment.json").status_code == 404


def test_a_file_that_grows_is_sent_as_it_was_and_one_that_shrinks_ends_early(tmp_path: Path) -> None:
    path = tmp_path / "fold-0" / "run.log"
    path.parent.mkdir()
    path.write_bytes(b"a" * 1000)
    grows, shrinks = (FileContent(open_inside(tmp_path, "fold-0/run.log"), "text/plain") for _ in range(2))
    with path.open("ab") as handle:
        handle.write(b"b" * 1000)

    async def read(response: FileContent) -> bytes:
        return b"".join([part async for part in response.body_iterator])  # type: ignore[misc]

    assert grows.headers["content-length"] == "1000"
    with ThreadPoolExecutor(1) as pool:  # browser tests leave a running event loop in this thread
        assert pool.submit(lambda: asyncio.run(read(grows))).result() == b"a" * 1000
        os.truncate(path, 300)
        assert pool.submit(lambda: asyncio.run(read(shrinks))).result() == b"a" * 300


def test_folders_that_are_links_and_files_that_are_not_regular_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "x.json").write_text("hush")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "secret")
    os.mkfifo(folder / "pipe.log")  # opening it must not wait for a program that writes to it
    for name in ("linked/x.json", "pipe.log", "../secret/x.json", "linked", "", "a\0b", "./pipe.log", "a" * 300):
        with pytest.raises(OSError):  # noqa: PT011  # of several kinds
            open_inside(folder, name)
    assert open_inside(folder / "linked", "x.json").read() == b"hush"  # a folder that the user has moved


@pytest.mark.parametrize("text", INJECTIONS)
def test_names_notes_errors_and_files_are_no_markup(dataset_copy: Path, serve: Serve, text: str) -> None:
    with open_copy(dataset_copy) as store:
        number = new_one(store, name=text if text.isprintable() else "plain")  # other names are refused
        store.add_note(number, text)
        store.change_tags(number, add=["plain"])
        run = start(store, number)
        store.finish_run(run.id, "failed", error=text)
    folder = dataset_copy / "experiments" / str(number)
    (folder / "fold-0").mkdir(parents=True, exist_ok=True)
    (folder / "fold-0" / "run.log").write_text(text)
    (folder / f"{text.replace('/', '')}.json").write_text("{}")
    with serve(dataset_copy).client() as client:
        page = client.get(f"/experiments/{number}").text
        log = client.get(f"/api/experiments/{number}/log").json()["text"]
    content = page[page.index("<main") : page.rindex("<script type=")]
    assert "<img" not in content
    assert "<svg" not in content
    assert "<script" not in content
    assert " onmouseover='" not in content
    assert "{{ 7 * 7 }}" in content or text != "{{ 7 * 7 }}"
    assert log == text.replace("\u202e", "\\u202e")  # JSON; the page shows it as text


def test_the_log_follows_and_is_cut_at_lines(dataset_copy: Path, serve: Serve) -> None:
    with open_copy(dataset_copy) as store:
        number = new_one(store)
    path = dataset_copy / "experiments" / str(number) / "fold-1" / "run.log"
    url = f"/api/experiments/{number}/log?fold=1"
    with serve(dataset_copy).client() as client:
        assert client.get(url).json() == {"text": "", "end": 0, "cut": False, "missing": True}
        path.parent.mkdir(parents=True)
        path.write_bytes("epoch 1\nä".encode()[:-1])  # half of a character
        first = client.get(url).json()
        assert first == {"text": "epoch 1\n", "end": 8, "cut": False, "missing": False}
        with path.open("ab") as handle:
            handle.write("ä".encode()[1:] + b" \x1b[31mred\r\n")
        second = client.get(f"{url}&from=8").json()
        assert second == {"text": "ä \\x1b[31mred\n", "end": path.stat().st_size, "cut": False, "missing": False}
        assert client.get(f"{url}&from={second['end']}").json()["text"] == ""
        path.write_text("".join(f"line {i:06}\n" for i in range(20_000)))
        tail = client.get(url).json()
        assert (tail["cut"], tail["end"], tail["text"][:5]) == (True, 240_000, "line ")
        assert 60_000 < len(tail["text"]) <= 65_536
        assert client.get(f"{url}&from=100").json() == tail  # the page was away for too long
        path.write_text("new\n")
        assert client.get(f"{url}&from=240000").json()["text"] == "new\n"
        for bad in (f"{url}&from=-1", f"{url}&from=x", f"/api/experiments/{number}/log?fold=¹"):
            assert client.get(bad).status_code == 400
        assert client.get(f"/api/experiments/{number}/log?fold=2").status_code == 404
        path.unlink()
        path.symlink_to(dataset_copy / "db" / "workspace.json")
        assert client.get(url).status_code == 404


def test_a_report_is_shown_in_a_sandbox(trained_copy: Path, serve: Serve) -> None:
    with serve(trained_copy).client() as client:
        assert client.get("/experiments/1/report").status_code == 404
        (trained_copy / "experiments" / "1" / "report.html").write_text("<script>parent.document.cookie</script>")
        shown = client.get("/experiments/1/report")
        assert 'href="/experiments/1/report"' in client.get("/experiments/1").text
    policy = shown.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy
    assert shown.headers["x-content-type-options"] == "nosniff"


def test_a_diverged_run_and_a_damaged_recipe_have_a_page(dataset_copy: Path, serve: Serve) -> None:
    with open_copy(dataset_copy) as store:
        number = new_one(store)
        run = start(store, number)
        store.record_epoch(run.id, epoch_record(0, loss=float("nan"), score=float("inf")))
        record(store, run, 1)
    with serve(dataset_copy).client() as client:
        assert client.get(f"/experiments/{number}").status_code == 200
