"""Metrics that leave the package: as StableHLO for JAX alone, and as ONNX."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from small_metric import small_metric

import spips_jax
from spips_jax import export
from spips_jax import metric as metrics
from spips_jax.commands import main
from spips_jax.plain import plain

SMALL = small_metric()
SIZE = (45, 64)
X, Y = (
    np.random.default_rng(seed).random((3, *SIZE, 3), np.float32) for seed in (0, 1)
)
Y = (0.9 * X + 0.1 * Y).astype(np.float32)

SAME = {"rtol": 1e-5}  # another compilation may sum in another order

CALL_WITH_JAX_ALONE = textwrap.dedent("""\
    import sys

    for name in ("spips_jax", "weights_convert", "flax", "dm_pix", "safetensors"):
        sys.modules[name] = None  # an import of it raises
    import numpy as np
    from jax import export

    folder = sys.argv[1]
    x, y = np.load(f"{folder}/x.npy"), np.load(f"{folder}/y.npy")
    program = export.deserialize(open(f"{folder}/lite.stablehlo", "rb").read())
    found = [program.call(x, y), program.call(x[:1], y[:1]), program.call(x, x)]
    np.savez(f"{folder}/found.npz", *found)
""")


def test_jax_alone_gives_the_score(tmp_path):
    """Of any number of pairs; the package and Flax are not there."""
    metric = spips_jax.load("spips-lite")
    (tmp_path / "lite.stablehlo").write_bytes(export.stablehlo(metric, size=SIZE))
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    words = [sys.executable, "-c", CALL_WITH_JAX_ALONE, str(tmp_path)]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    several, one, same = np.load(tmp_path / "found.npz").values()
    scores = np.asarray(metric(X, Y))
    np.testing.assert_allclose(several, scores, **SAME)
    np.testing.assert_allclose(one, scores[:1], **SAME)
    assert (same == 0).all()


def test_weights_may_come_apart():
    content = export.stablehlo(SMALL, size=SIZE, weights=False, batch=3)
    program = jax_export.deserialize(bytearray(content))
    params = export.parameters(SMALL)
    np.testing.assert_allclose(program.call(params, X, Y), SMALL(X, Y), **SAME)
    more = {name: 2 * value for name, value in params.items()}
    changed = SMALL.replace(
        variables=jax.tree.map(lambda x: 2 * jnp.asarray(x), SMALL.variables)
    )
    np.testing.assert_allclose(program.call(more, X, Y), changed(X, Y), **SAME)
    assert program.platforms == export.PLATFORMS
    assert program.in_avals[-1].shape == (3, *SIZE, 3)


@pytest.mark.parametrize("gradient", [True, False])
def test_gradients_go_through_where_asked_for(gradient):
    content = export.stablehlo(SMALL, size=SIZE, platforms=("cpu",), gradient=gradient)
    program = jax_export.deserialize(bytearray(content))
    assert program.platforms == ("cpu",)

    def total(y, function):
        return function(X, y).sum()

    if not gradient:
        with pytest.raises(ValueError, match="No VJP is available"):
            jax.grad(total)(Y, program.call)
        return
    found, expected = (jax.grad(total)(Y, f) for f in (program.call, SMALL))
    np.testing.assert_allclose(found, expected, **SAME)


@pytest.mark.parametrize("name", ["spips-lite", "haarpsi"])
def test_plain_functions_are_the_same(name):
    """And have nothing in them that a translator does not know."""
    metric = spips_jax.load(name)

    def score(x, y):
        return metrics.score(metric, x, y)

    images = jax.ShapeDtypeStruct(X.shape, jnp.float32)
    function = plain(score, images, images)
    np.testing.assert_allclose(jax.jit(function)(X, Y), metric(X, Y), **SAME)
    written = str(jax.make_jaxpr(function)(images, images))
    assert "linear" in str(jax.make_jaxpr(score)(images, images))
    for operation in (" linear[", "platform_index", "custom_jvp", "reduce_window",
                      "cond[", "checkpoint["):  # fmt: skip
        assert operation not in written


def test_onnx_runtime_gives_the_score(embedded):
    pytest.importorskip(
        "jax2onnx", reason="jax2onnx needs an older Orbax: the extra [onnx] by itself"
    )
    from onnxruntime import InferenceSession

    session = InferenceSession(export.onnx(embedded, size=SIZE, batch=3))
    (scores,) = session.run(None, {"reference": X, "distorted": Y})
    np.testing.assert_allclose(scores, embedded(X, Y), **SAME)
    (same,) = session.run(None, {"reference": X, "distorted": X})
    assert (same == 0).all()


def test_the_command_writes_and_verifies(tmp_path, capsys):
    file, apart = tmp_path / "ssim.stablehlo", tmp_path / "weights.safetensors"
    words = ["export", str(file), "--model", "ssim", "--size", "64x45"]
    assert main(words) == 0
    assert "its scores are those of ssim to" in capsys.readouterr().out
    first = file.read_bytes()
    program = jax_export.deserialize(bytearray(first))
    assert str(program.in_avals[0].shape) == "(n, 45, 64, 3)"
    # Its own file may be written again; and not run where it is not for.
    assert main([*words, "--platforms", "tpu", "--weights-apart", str(apart)]) == 0
    assert "not run here, on cpu" in capsys.readouterr().out
    assert apart.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a.onnx", "--size", "64"], "--size 64: give width and height, as in 512x384"),
        (["a.pt", "--size", "64x64"], "its ending must say how to write it: .stable"),
        (["a.stablehlo", "--size", "64x64", "--batch", "0"], "--batch is 0: give 1 or"),
        (["a.onnx", "--size", "64x64", "--gradient"], "--gradient goes with .stablehl"),
        (["a.onnx", "--size", "64x64", "--weights-apart", "b"], "--weights-apart goes"),
        (["a.stablehlo", "--size", "31x64"], "width 31 is below the 32"),
        (["there.onnx", "--size", "64x64"], "is none of ours to replace"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_an_error(
    words, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.onnx").write_bytes(b"theirs")
    assert main(["export", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    with pytest.raises(ValueError, match=r"jax2onnx is not installed: .* \[onnx\]"):
        export.onnx(SMALL, size=SIZE)
    monkeypatch.setitem(sys.modules, "jax._src.export.serialization", None)
    with pytest.raises(ValueError, match=r"flatbuffers is not installed: .*\[export\]"):
        export.stablehlo(SMALL, size=SIZE)
