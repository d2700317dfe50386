"""Several processes that prepare one set. Threads stand for them: locks are alike."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from spips_jax import data
from spips_jax.data.synthetic import Synthetic


@pytest.fixture
def built(monkeypatch):
    """Counts builds."""
    count = []
    build = Synthetic.download_and_prepare

    def counting(self, **options):
        count.append(self.name)
        build(self, **options)

    monkeypatch.setattr(Synthetic, "download_and_prepare", counting)
    return count


def prepare_at_once(folder, *calls):
    def prepare(options):
        try:
            small = {"scenes": 1, "size": 40, "kinds": ["jpeg"]}
            return data.prepare("synthetic", data_dir=folder, **{**small, **options})
        except data.DataError as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(prepare, calls))


@pytest.mark.parametrize("overwrite", [False, True])
def test_one_builds_and_the_others_wait(built, tmp_path, overwrite):
    folders = prepare_at_once(tmp_path, *3 * [{"overwrite": overwrite}])
    assert len(set(folders)) == 1
    assert len(built) == (3 if overwrite else 1)
    assert len(data.load("synthetic/scenes", data_dir=tmp_path)) == 5
    assert list(tmp_path.iterdir()) == [tmp_path / "synthetic"]


def test_who_waited_for_a_set_of_other_options_is_told(built, tmp_path):
    found = prepare_at_once(tmp_path, {"kinds": ["jpeg"]}, {"kinds": ["webp"]})
    (refused,) = [one for one in found if isinstance(one, str)]
    assert "is there already, made with kinds" in refused
    assert len(built) == 1
