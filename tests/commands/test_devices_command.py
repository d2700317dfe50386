"""JAX_PLATFORMS names a kind of device that there is none of: one line says so."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import pytest

from spips_jax.commands import check, evaluate, main, models, train

LINE = (
    "error: JAX_PLATFORMS is quantum, and JAX finds no such device here, only cpu:"
    " unset it, or install the JAX for your device"
    " (https://docs.jax.dev/en/latest/installation.html)\n"
)


@pytest.fixture
def missing(monkeypatch):
    """JAX as it is without a device: raises what depends on the kind."""
    real = jax.devices()

    def set_up(error: Exception):
        def devices():
            if jax.config.values["jax_platforms"]:
                raise error
            return real

        monkeypatch.setattr(jax, "devices", devices)
        return error

    before = jax.config.values["jax_platforms"]
    jax.config.update("jax_platforms", "quantum")
    yield set_up
    jax.config.update("jax_platforms", before)


ERRORS = [RuntimeError("Unable to initialize backend 'quantum'"), AssertionError()]


@pytest.mark.parametrize("error", ERRORS, ids=["RuntimeError", "AssertionError"])
@pytest.mark.parametrize("command", [check, evaluate, models, train])
def test_every_command_says_it_in_one_line(
    missing, monkeypatch, capsys, command, error
):
    missing(error)

    def run(_):
        raise error

    monkeypatch.setattr(command, "run", run)
    assert main([command.__name__.rpartition(".")[2]]) == 2
    assert capsys.readouterr() == ("", LINE)
    assert jax.config.values["jax_platforms"] == "quantum"


@pytest.mark.parametrize("error", ERRORS, ids=["RuntimeError", "AssertionError"])
def test_scoring_says_it_once_for_all_pairs(missing, capsys, tmp_path, error):
    missing(error)
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("reference,distorted\na.png,b.png\na.png,c.png\n")
    assert main(["score", "--pairs", str(pairs), "--model", "psnr"]) == 2
    assert capsys.readouterr() == ("", LINE)


def test_other_errors_are_not_hidden(monkeypatch):
    def run(_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(check, "run", run)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["check"])


def test_a_real_process():
    done = subprocess.run(
        [sys.executable, "-m", "spips_jax", "score", "--example", "--model", "psnr"],
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "quantum"},
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: JAX_PLATFORMS is quantum, and JAX finds no such")
