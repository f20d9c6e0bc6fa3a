"""Pages and commands about a dataset whose slices have pseudo-labels only, and so no prevalences."""

import json
import time
from pathlib import Path

from conftest import Program
from web_site import Serve


def test_pages_and_commands_show_pseudo_labels(trained_copy: Path, ichx: Program, serve: Serve) -> None:
    options = ("--of", "ph-test", "--by", 2, "--transductive", "--device", "cpu", "--json")
    made = ichx("data", "pseudo", "guessed", *options, cwd=trained_copy)
    assert made.code == 0, made.err
    report = json.loads(made.out)
    assert report["created"]
    assert [count["slices"] for count in report["folds"]] == [report["version"]["slices"]] * 2
    assert report["version"]["summary"]["pseudo"]["trained_on"]["labelled"] == "ph"
    for command in (("show", "guessed"), ("folds", "guessed"), ("list",)):
        shown = ichx("data", *command, cwd=trained_copy)
        assert shown.code == 0, shown.err
    assert "pseudo-labels" in shown.out
    ichx("data", "pseudo", "x", "--of", "ph-test", "--by", 2, "--json", cwd=trained_copy).check_error(
        "conflict", "ph-test", "2 patients"
    )
    ichx("data", "pseudo", "x", "--of", "none", "--by", 2, "--json", cwd=trained_copy).check_error("not_found", "none")
    ichx("data", "pseudo", "x", "--of", "ph", "--by", "b", "--json", cwd=trained_copy).check_error("invalid_input", "b")
    both = ("data", "pseudo", "x", "--of", "ph", "--by", 2, "--json", "--soft", "--hard")
    ichx(*both, cwd=trained_copy).check_error("usage", "--soft")
    with serve(trained_copy).client() as client:
        for page in ("/data", "/data/guessed"):
            while "reloads itself" in (answer := client.get(page, follow_redirects=True)).text:
                time.sleep(0.05)
            assert answer.status_code == 200, (page, answer.text[:500])
            assert "guessed" in answer.text
        assert "pseudo-labels" in client.get("/data").text
