"""`cache_local`: commands read copies of the cache on a disk of the machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import SHORT, Program
from small_dicom import head, write_slice

from ichx.cache.hu_cache import Cache
from ichx.phantom.dicom_files import write_phantom

pytestmark = pytest.mark.slow


def _options(settings: tuple[str, ...]) -> Iterator[str]:
    for setting in settings:
        yield from ("--set", setting)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICHX_CACHE_LOCAL", str(tmp_path / "node"))
    return tmp_path / "node"


def _damage(folder: Path) -> None:
    """Change the pixels of the caches in `folder`, but not the sizes and tables of their shards."""
    for shard in folder.glob("*/*.shard"):
        content = bytearray(shard.read_bytes())
        content[40] ^= 255  # in the first slice
        shard.write_bytes(content)


def test_a_run_and_an_evaluation_read_the_copies(ichx: Program, dataset_copy: Path, node: Path, tmp_path: Path) -> None:
    """The shared cache is damaged after the copy: a command that read it would fail."""
    new = ("exp", "new", "--dataset", "ph", "--plugin", "tiny_resnet", "--size", 32)
    done = ichx(*new, *_options(SHORT), cwd=dataset_copy)
    assert done.code == 0, done.err
    for name in ("ph", "ph-test"):
        assert ichx("data", "cache", name, "--for", 1, cwd=dataset_copy).code == 0
    assert not node.exists()  # only a training, prediction or evaluation copies
    done = ichx("run", 1, "--fold", 0, "--device", "cpu", cwd=dataset_copy)
    assert done.code == 0, done.err
    assert "local copy" not in done.err
    shards = sorted(node.glob("*/*.shard"))
    assert [shard.parent.name for shard in shards] == sorted(path.name for path in (dataset_copy / "cache").iterdir())
    _damage(dataset_copy / "cache")
    done = ichx("run", 1, "--device", "cpu", cwd=dataset_copy)
    assert done.code == 0, done.err
    assert sorted(node.glob("*/*.shard")) == shards
    other = write_phantom(tmp_path / "other", patients=4, seed=5, size=64, prevalence={"any": 0.5})
    add = ("data", "add", "other", other.train, "--labels", other.train_labels, "--folds", 0)
    assert ichx(*add, cwd=dataset_copy).code == 0
    done = ichx("evaluate", 1, "--dataset", "other", "--device", "cpu", cwd=dataset_copy)
    assert done.code == 0, done.err
    shards = sorted(node.glob("*/*.shard"))
    assert len(shards) == 3
    assert ichx("gc", "--yes", cwd=dataset_copy).code == 0
    assert sorted(node.glob("*/*.shard")) == shards
    shared = Cache(next((dataset_copy / "cache").glob("ph-32-*")))
    assert Cache(shared.folder, node / shared.folder.name).read(0).any()


def test_a_prediction_of_files_caches_on_the_disk_of_the_machine(
    ichx: Program, trained_copy: Path, node: Path, tmp_path: Path
) -> None:
    (tmp_path / "files").mkdir()
    write_slice(tmp_path / "files" / "0.dcm", head(), "0")
    cache = trained_copy / "cache"
    cache.rename(tmp_path / "elsewhere")
    cache.write_text("no folder")  # so that nothing can be cached there
    predict = ("predict", 1, tmp_path / "files", "--device", "cpu", "--out", tmp_path / "out.csv")
    done = ichx(*predict, cwd=trained_copy)
    assert done.code == 0, done.err
    assert not list(node.iterdir())
