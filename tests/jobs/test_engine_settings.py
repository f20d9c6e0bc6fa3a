"""The tables `[engine]`, `[engine.slurm]` and `[engine.ray]` of ichx.toml."""

from typing import Any

import pytest

from ichx.errors import InvalidInputError, NotFoundError
from ichx.jobs import LocalEngine
from ichx.jobs.engine_settings import EngineSettings, RaySettings, SlurmSettings, parse_engine_settings, parse_time
from ichx.jobs.engines import open_engine
from ichx.workspace import Workspace, init_workspace, open_workspace

VALUES: dict[str, dict[str, Any]] = {
    "slurm": {
        "partition": "gpu",
        "account": "neuro",
        "qos": "long",
        "constraint": "a100|h100",
        "cpus": 8,
        "gpus": 0,
        "memory": "1.5 TB",
        "time": "2-01:00:00",
        "gpu_option": "gpus-per-node",
        "gpu_type": "a100",
        "options": ["--exclusive"],
        "setup": ["module load cuda"],
        "template": "head.sh",
        "export": ["MY_TOKEN"],
        "signal_seconds": 60,
        "max_requeues": 3,
        "lost_after": 30,
    },
    "ray": {
        "address": "http://head:8265",
        "cpus": 4,
        "gpus": 0.5,
        "memory": "500MB",
        "resources": {"mri": 1},
        "autoscaling": True,
    },
}


def test_every_setting_is_read() -> None:
    assert parse_engine_settings({"default": "slurm", **VALUES}) == EngineSettings(
        "slurm",
        SlurmSettings(
            partition="gpu",
            account="neuro",
            qos="long",
            constraint="a100|h100",
            cpus=8,
            gpus=0,
            memory=1_500_000_000_000,
            time=176_400.0,
            gpu_option="gpus-per-node",
            gpu_type="a100",
            options=("--exclusive",),
            setup=("module load cuda",),
            template="head.sh",
            export=("MY_TOKEN",),
            signal_seconds=60.0,
            max_requeues=3,
            lost_after=30.0,
        ),
        RaySettings("http://head:8265", 4.0, 0.5, 500_000_000, {"mri": 1.0}, autoscaling=True),
    )
    assert parse_engine_settings({}) == EngineSettings()


def test_all_problems_are_reported_together() -> None:
    raw = {
        "defualt": "slurm",
        "default": "slrum",
        "slurm": {"partitoin": "gpu", "gpus": -1, "cpus": True, "memory": "64", "time": "soon", "gpu_option": "gpu"},
        "ray": {"cpus": "two", "autoscaling": "yes", "resources": {"a": "b"}},
    }
    with pytest.raises(InvalidInputError) as raised:
        parse_engine_settings(raw)
    problems = raised.value.problem.splitlines()
    words = ("defualt", "slrum", "partitoin", "-1", "True", "'64'", "soon", "'gpu'", "two", "yes", "'b'")
    assert len(problems) == len(words)
    assert all(any(word in problem for problem in problems) for word in words)
    assert any("'partition'" in problem for problem in problems)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("options", "--exclusive"),
        ("options", ["exclusive"]),
        ("setup", ["a\nb"]),
        ("export", ["TOKEN=secret"]),
        ("export", ["A,B"]),
        ("partition", ""),
        ("memory", "0GB"),
        ("time", "0h"),
        ("lost_after", float("nan")),
        ("lost_after", 10**400),
        ("memory", f"{'9' * 400}GB"),
        ("time", f"{'9' * 400}d"),
        ("time", f"{'9' * 400}:00:00"),
    ],
)
def test_an_invalid_value_is_refused(key: str, value: object) -> None:
    with pytest.raises(InvalidInputError) as raised:
        parse_engine_settings({"slurm": {key: value}})
    assert f"`{key}`" in raised.value.problem


def test_a_table_must_be_a_table() -> None:
    with pytest.raises(InvalidInputError) as raised:
        parse_engine_settings({"slurm": "gpu"})
    assert "'gpu'" in raised.value.problem


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("2d", 172_800), ("0:30:00", 1800), ("1-00:00:00", 86_400)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_time(text) == seconds


def test_engines_open_by_name(workspace: Workspace) -> None:
    assert isinstance(open_engine(workspace, "local", 2), LocalEngine)
    with pytest.raises(NotFoundError) as raised:
        open_engine(workspace, "slrum", 2)
    assert "'slurm'" in raised.value.remedy


def test_settings_of_a_workspace_are_checked(workspace: Workspace) -> None:
    (workspace.root / "ichx.toml").write_text("[engine.slurm]\nmemry = 1\n")
    with pytest.raises(InvalidInputError) as raised:
        open_engine(open_workspace(workspace.root), "slurm", 1)
    assert "'memory'" in raised.value.problem


@pytest.fixture
def workspace(tmp_path: Any) -> Workspace:
    return init_workspace(tmp_path)
