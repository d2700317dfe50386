"""Several processes that prepare one set. Threads stand for them: locks are alike."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spips_jax import data
from spips_jax.data.synthetic import Synthetic


@pytest.fixture
def built(monkeypatch):
    """Builds that take no time; where each was made."""
    made = []

    def build(self, **_):
        made.append(self.data_dir)
        Path(self.data_dir).mkdir(parents=True)
        (Path(self.data_dir) / "number").write_text(str(len(made)))

    monkeypatch.setattr(Synthetic, "download_and_prepare", build)
    return made


@pytest.mark.parametrize("overwrite", [False, True])
def test_one_builds_and_the_others_wait(built, tmp_path, overwrite):
    def prepare(_):
        return data.prepare("synthetic", data_dir=tmp_path, overwrite=overwrite)

    with ThreadPoolExecutor() as pool:
        folders = list(pool.map(prepare, range(4)))
    assert len(set(folders)) == 1
    assert len(built) == (4 if overwrite else 1)
    assert (folders[0] / "number").read_text() == str(len(built))
    assert list(tmp_path.iterdir()) == [tmp_path / "synthetic"]


def test_other_sets_do_not_wait(built, tmp_path, monkeypatch):
    names = ["a", "b", "c"]
    with ThreadPoolExecutor() as pool:
        folders = list(
            pool.map(
                lambda name: data.prepare("synthetic", data_dir=tmp_path, config=name),
                names,
            )
        )
    assert [folder.parent.name for folder in folders] == names
    assert len(built) == 3
