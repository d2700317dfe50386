"""`spips warm`: programs that are there before they are needed."""

from __future__ import annotations

import jax
import pytest

from spips_jax import any_size, packing
from spips_jax.commands import main


@pytest.fixture
def _two_canvases(monkeypatch, tmp_path):
    monkeypatch.setattr(packing, "SIZES", packing.SIZES[:2])
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path))


@pytest.mark.usefixtures("_two_canvases")
def test_programs_are_compiled_for_every_canvas(capsys):
    jax.clear_caches()
    assert main(["warm", "--model", "psnr", "--model", "ssim"]) == 0
    out, _ = capsys.readouterr()
    assert [line.split(",")[0] for line in out.splitlines()] == [
        "psnr: 2 programs are there", "ssim: 2 programs are there"
    ]  # fmt: skip
    assert any_size._measure._cache_size() == 4


def test_models_that_have_no_such_programs_are_named(capsys):
    assert main(["warm", "--model", "vsi"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "vsi compiles for each size of images anew" in err
