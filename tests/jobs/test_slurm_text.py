"""What ichx passes to Slurm and reads from it; needs no cluster."""

import math
from pathlib import Path

import pytest

from ichx.errors import (
    ConflictError,
    IchxError,
    InvalidInputError,
    MissingDependencyError,
    NotFoundError,
    ProcessError,
    ResourceError,
    StorageError,
)
from ichx.jobs import Resources
from ichx.jobs.engine_settings import SlurmSettings
from ichx.jobs.engines import open_engine
from ichx.jobs.slurm_commands import QueueEntry, call_slurm, parse_limit, parse_nodes, parse_queue
from ichx.jobs.slurm_script import (
    ArrayRequest,
    array_options,
    batch_script,
    check_request,
    exported_names,
    sbatch_options,
)
from ichx.workspace import init_workspace

NODES = parse_nodes(
    "gpu*|64+|515000|gpu:a100:4(S:0-1),gpu:v100:2|2-00:00:00\n"
    "gpu*|32|257000|gpu:8|2-00:00:00\n"
    "cpu|128|1000000|(null)|infinite\n"
    "nonsense\n"
)


@pytest.mark.parametrize(
    ("folder", "written"), [("/a/50%j", "/a/50%%j/slurm-%A_%a.out"), ("/a/b\\n%j", "/a/b\\\\n%j/slurm.out")]
)
def test_the_path_of_the_output_has_no_patterns_of_the_workspace(folder: str, written: str) -> None:
    assert f"--output={written}" in array_options(ArrayRequest("one", 0, 2, None, None), Path(folder))


def test_nodes_are_parsed() -> None:
    found = [(n.partition, n.is_default, n.cpus, n.memory >> 20, n.gpus, n.gpu_types, n.time_limit) for n in NODES]
    assert found == [
        ("gpu", True, 64, 515_000, 6, ("a100", "v100"), 172_800.0),
        ("gpu", True, 32, 257_000, 8, (), 172_800.0),
        ("cpu", False, 128, 1_000_000, 0, (), math.inf),
    ]


@pytest.mark.parametrize(
    ("text", "seconds"), [("30:00", 1800), ("12:00:00", 43_200), ("1-00:00:00", 86_400), ("infinite", math.inf)]
)
def test_limits_are_parsed(text: str, seconds: float) -> None:
    assert parse_limit(text) == seconds


def test_a_queue_is_parsed() -> None:
    text = (
        "7|0|RUNNING|node1|2026-11-28T16:20:25\n"
        "7|1|NODE_FAIL|node2|2026-11-28T16:20:25\n"
        "7|2|PENDING||N/A\n"
        "8|N/A|CANCELLED||2026-11-28T16:21:58\n"
        "slurm_load_jobs error\n"
    )
    assert parse_queue(text) == {
        "slurm:7": QueueEntry("PENDING", False),
        "slurm:7_0": QueueEntry("RUNNING", True),
        "slurm:7_1": QueueEntry("NODE_FAIL", True),
        "slurm:7_2": QueueEntry("PENDING", False),
        "slurm:8": QueueEntry("CANCELLED", False),
    }
    states = ("RUNNING", "COMPLETING", "SUSPENDED", "PENDING", "REQUEUED", "TIMEOUT", "OUT_OF_MEMORY", "DEADLINE")
    active = ["running"] * 3 + ["queued"] * 2 + [None] * 3
    assert [QueueEntry(state, True).active for state in states] == active


@pytest.mark.parametrize(
    ("settings", "gpus", "option"),
    [
        (SlurmSettings(), 2, "--gres=gpu:2"),
        (SlurmSettings(gpu_type="a100"), 2, "--gres=gpu:a100:2"),
        (SlurmSettings(gpu_option="gpus-per-node", gpu_type="a100"), 2, "--gpus-per-node=a100:2"),
        (SlurmSettings(gpu_option="gpus"), 2, "--gpus=6"),
        (SlurmSettings(gpus=4), None, "--gres=gpu:4"),
        (SlurmSettings(gpus=4), 0, None),
        (SlurmSettings(), None, None),
    ],
)
def test_gpus_are_requested_as_the_site_accepts_them(
    settings: SlurmSettings, gpus: int | None, option: str | None
) -> None:
    found = [part for part in sbatch_options(settings, Resources(gpus=gpus, nodes=3)) if "gp" in part or "gres" in part]
    assert found == ([] if option is None else [option])


def test_options_of_a_command_override_the_settings() -> None:
    settings = SlurmSettings(
        partition="gpu", account="a", qos="q", constraint="c", cpus=4, memory=10**9, time=3600, options=("--exclusive",)
    )
    assert sbatch_options(settings, Resources()) == [
        *("--partition=gpu", "--account=a", "--qos=q", "--constraint=c", "--nodes=1", "--ntasks-per-node=1"),
        *("--cpus-per-task=4", "--mem=954M", "--time=60", "--signal=B:TERM@120", "--exclusive"),
    ]
    wanted = Resources(cpus=8, memory=2**30, seconds=90, nodes=2, options=("--nice=5",))
    assert sbatch_options(settings, wanted)[4:] == [
        *("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=8", "--mem=1024M", "--time=2"),
        *("--signal=B:TERM@30", "--exclusive", "--nice=5"),  # not at the start of a short job
    ]


@pytest.mark.parametrize(
    ("settings", "resources", "error", "words"),
    [
        (SlurmSettings(partition="gpuu"), Resources(), InvalidInputError, ("gpuu",)),
        (SlurmSettings(partition="cpu,gpuu"), Resources(), InvalidInputError, ("gpuu",)),
        (SlurmSettings(partition="cpu"), Resources(gpus=1), ResourceError, ("cpu", "1 GPU;", "0 GPUs")),
        (SlurmSettings(gpus=9), Resources(), ResourceError, ("9 GPUs", "8 GPUs")),
        (SlurmSettings(gpu_type="h100"), Resources(gpus=1), None, ()),  # some nodes do not name their type
        (SlurmSettings(gpu_type="a100"), Resources(gpus=4, cpus=64), None, ()),
        (SlurmSettings(), Resources(gpus=8, cpus=64), ResourceError, ("64 CPUs", "8 GPUs")),  # no node has both
        (SlurmSettings(), Resources(memory=10**12), ResourceError, ("1.0 TB",)),
        (SlurmSettings(time=200_000), Resources(), ResourceError, ("48 h",)),
        (SlurmSettings(partition="cpu", time=200_000), Resources(cpus=128), None, ()),
        (SlurmSettings(partition="cpu,gpu"), Resources(gpus=8), None, ()),
    ],
)
def test_a_request_that_no_node_can_satisfy_is_refused(
    settings: SlurmSettings, resources: Resources, error: type[IchxError] | None, words: tuple[str, ...]
) -> None:
    if error is None:
        check_request(settings, resources, NODES)
        return
    with pytest.raises(error) as raised:
        check_request(settings, resources, NODES)
    assert all(word in raised.value.problem for word in words)


@pytest.mark.parametrize("option", ["--array=0-9", "-a0-9", "--arr=0-9", "--job-name=x", "-Jx", "--wrap=true"])
def test_an_option_that_ichx_needs_is_refused(option: str) -> None:
    for settings, resources in (
        (SlurmSettings(options=(option,)), Resources()),
        (SlurmSettings(), Resources(options=(option,))),
    ):
        with pytest.raises(InvalidInputError) as raised:
            check_request(settings, resources, [])
        assert option.partition("=")[0] in raised.value.problem
    check_request(SlurmSettings(options=("--account=a", "--comment=c", "-A", "--wait-all-nodes=1")), Resources(), NODES)


def test_a_site_without_a_default_partition_needs_one() -> None:
    with pytest.raises(InvalidInputError) as raised:
        check_request(SlurmSettings(), Resources(), [node for node in NODES if not node.is_default])
    assert "cpu" in raised.value.remedy


def test_a_job_gets_named_variables_only() -> None:
    environment = dict.fromkeys(
        ("PATH", "ICHX_STORE", "ICHX_JOB", "ICHX_PARENT", "PGPASSWORD", "TOKEN", "OTHER", "BASH_FUNC_a%%"),
        "x",
    )
    names = exported_names(SlurmSettings(export=("TOKEN",)), environment)
    assert names == ["ICHX_STORE", "PATH", "PGPASSWORD", "TOKEN"]


def test_the_script_contains_the_setup_and_the_template(tmp_path: Path) -> None:
    (tmp_path / "head.sh").write_text("#SBATCH --mail-type=FAIL\n")
    plain = batch_script(SlurmSettings(), tmp_path, tmp_path / "a b").splitlines()
    assert plain[0] == "#!/bin/bash"
    assert f"ichx.jobs.wrapper '{tmp_path / 'a b'}'" in plain[-1]
    given = batch_script(SlurmSettings(setup=("module load x",), template="head.sh"), tmp_path, tmp_path).splitlines()
    assert given[:3] == ["#!/bin/bash -l", "#SBATCH --mail-type=FAIL", "module load x"]
    (tmp_path / "head.sh").write_text("#!/bin/zsh\n")
    assert batch_script(SlurmSettings(template="head.sh"), tmp_path, tmp_path).splitlines()[0] == "#!/bin/zsh"
    with pytest.raises(StorageError) as raised:
        batch_script(SlurmSettings(template="none.sh"), tmp_path, tmp_path)
    assert str(tmp_path / "none.sh") in raised.value.problem


MESSAGES = [
    ("sbatch: error: Batch job submission failed: Invalid account or account/partition combination", NotFoundError),
    ("sbatch: error: Batch job submission failed: Invalid qos specification", NotFoundError),
    (
        "sbatch: error: invalid partition specified: x\nsbatch: error: Invalid partition",
        NotFoundError,
    ),
    ("sbatch: error: Batch job submission failed: Requested node configuration is not available", ResourceError),
    ("sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Batch job submission failed: Job violates", ConflictError),
    ("sbatch: unrecognized option '--x'\nTry \"sbatch --help\" for more information", InvalidInputError),
    ("squeue: error: Unable to contact slurm controller (connect failure)", ProcessError),
    ("", ProcessError),
]


@pytest.mark.parametrize(("message", "error"), MESSAGES)
def test_refusals_have_types(
    message: str, error: type[IchxError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "sbatch"
    program.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{message}\nEND\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(error) as raised:
        call_slurm("sbatch")
    assert type(raised.value) is error


def test_slurm_must_be_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError) as raised:
        open_engine(init_workspace(tmp_path / "w"), "slurm", 1)
    assert "sbatch" in raised.value.problem
