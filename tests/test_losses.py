"""Losses: NumPy references, finite differences in float64, masks, odd batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from spips_jax import losses

N = 12


def batch(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=N)
    return scores, scores + rng.normal(size=N), rng.integers(0, 6, N) / 5


def rank_reference(scores, opinions, groups, scale: float) -> float:
    terms = [
        np.log1p(np.exp(-(scores[i] - scores[j]) / scale))
        for i in range(len(scores))
        for j in range(len(scores))
        if opinions[i] > opinions[j] and groups[i] == groups[j]
    ]
    return float(np.mean(terms)) if terms else 0.0


def test_cross_entropy_is_its_definition_and_pytorchs() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is the peer here")
    logits, _, judgement = batch()
    probability = 1 / (1 + np.exp(-logits))
    expected = -np.mean(
        judgement * np.log(probability) + (1 - judgement) * np.log(1 - probability)
    )
    # Float32 sums of 12 numbers of order 1, here and below.
    value = losses.choice_cross_entropy(jnp.array(logits), jnp.array(judgement))
    assert value == pytest.approx(expected, rel=1e-6)
    theirs = torch.nn.functional.binary_cross_entropy_with_logits(
        torch.tensor(logits), torch.tensor(judgement)
    )
    assert value == pytest.approx(theirs.item(), rel=1e-6)
    far = losses.choice_cross_entropy(jnp.array([1e4, -1e4]), jnp.array([1.0, 0.0]))
    assert far == 0


def test_plcc_loss_is_scipys() -> None:
    scores, opinions, _ = batch()
    expected = 1 - scipy.stats.pearsonr(scores, opinions).statistic
    value = losses.plcc_loss(jnp.array(scores), jnp.array(opinions))
    assert value == pytest.approx(expected, abs=1e-6)
    for factor in (1e-12, 1e12):
        value = losses.plcc_loss(jnp.array(factor * scores), jnp.array(opinions))
        assert value == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("grouped", [False, True])
def test_rank_loss_is_the_mean_over_its_pairs(grouped: bool) -> None:
    scores, opinions, _ = batch()
    opinions = opinions.round()  # with ties
    groups = np.arange(N) % 3 if grouped else np.zeros(N, int)
    value = losses.rank_loss(
        jnp.array(scores),
        jnp.array(opinions),
        groups=jnp.array(groups) if grouped else None,
        scale=0.5,
    )
    expected = rank_reference(scores, opinions, groups, 0.5)
    assert value == pytest.approx(expected, rel=1e-6)


def test_l1_is_its_definition() -> None:
    scores, opinions, _ = batch()
    value = losses.l1_loss(jnp.array(scores), jnp.array(opinions))
    assert value == pytest.approx(np.abs(scores - opinions).mean(), rel=1e-6)


LOSSES = {
    "choice": lambda s, o, **k: losses.choice_cross_entropy(s, jax.nn.sigmoid(o), **k),
    "plcc": losses.plcc_loss,
    "rank": losses.rank_loss,
    "l1": losses.l1_loss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_finite_differences_in_float64(name: str) -> None:
    scores, opinions, _ = batch()
    mask = np.arange(N) < N - 3
    with jax.enable_x64(True):
        check_grads(
            lambda s: LOSSES[name](s, jnp.array(opinions), mask=jnp.array(mask)),
            (jnp.array(scores),),
            order=1,
            modes=["rev"],
            atol=1e-7,  # of central differences in float64
            rtol=1e-6,
        )


@pytest.mark.parametrize("name", LOSSES)
def test_masked_rows_count_for_nothing_even_if_nan(name: str) -> None:
    scores, opinions, _ = batch()
    mask = jnp.array([True] * 8 + [False] * 4)
    expected, slopes = jax.value_and_grad(LOSSES[name])(
        jnp.array(scores[:8]), jnp.array(opinions[:8])
    )
    for filler in (0.0, 99.0, np.nan):
        padded = jnp.array(np.append(scores[:8], [filler] * 4))
        value, gradient = jax.value_and_grad(
            lambda s: LOSSES[name](s, jnp.array(opinions), mask=mask)
        )(padded)
        assert value == pytest.approx(float(expected), rel=1e-6)
        if not np.isnan(filler):
            np.testing.assert_allclose(gradient[:8], slopes, atol=1e-7)
            np.testing.assert_array_equal(gradient[8:], 0)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    "make",
    [
        lambda: np.zeros(N),
        lambda: np.full(N, 0.1),  # whose mean is not 0.1 in float32
        lambda: np.full(N, 1e6),
        lambda: np.array([1e6, *[0.0] * (N - 1)]),
    ],
)
def test_odd_batches_have_finite_losses_and_gradients(name, dtype, make) -> None:
    values = jnp.array(make(), dtype)
    other = jnp.array(batch()[1], dtype)
    for scores, opinions in ((values, other), (other, values), (values, values)):
        value, gradient = jax.value_and_grad(LOSSES[name])(scores, opinions)
        assert value.dtype == jnp.float32
        assert np.isfinite(value)
        assert value >= -1e-6  # 1 - PLCC rounds
        assert np.all(np.isfinite(np.asarray(gradient, np.float32)))


def test_a_constant_has_a_plcc_loss_of_one() -> None:
    opinions = jnp.array(batch()[1])
    for constant in (0.0, 0.1, 1e6):
        value, gradient = jax.value_and_grad(losses.plcc_loss)(
            jnp.full(N, constant), opinions
        )
        assert value == 1
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_left_is_a_loss_of_zero(name: str) -> None:
    scores, opinions, _ = batch()
    value = LOSSES[name](
        jnp.array(scores), jnp.array(opinions), mask=jnp.zeros(N, bool)
    )
    assert value == (1 if name == "plcc" else 0)


def test_gathered_batches_do_not_depend_on_the_devices() -> None:
    """The way the module says: on 2 devices what it is on one."""
    scores, opinions, _ = batch()

    def gathered(loss, scores, opinions):
        both = [jax.lax.all_gather(v, "d", tiled=True) for v in (scores, opinions)]
        return loss(*both)

    for loss in (losses.plcc_loss, losses.rank_loss):
        parts = [jnp.array(v).reshape(2, -1) for v in (scores, opinions)]
        mapped = jax.pmap(lambda s, o, f=loss: gathered(f, s, o), axis_name="d")(*parts)
        expected = loss(jnp.array(scores), jnp.array(opinions))
        np.testing.assert_allclose(mapped, [expected] * 2, rtol=1e-6)


def test_the_ranker_learns_forced_choices() -> None:
    """From distances alone; its layers are LPIPS's, by their parameters' shapes."""
    rng = np.random.default_rng(0)
    d0, d1 = (jnp.array(rng.random(64), jnp.float32) for _ in range(2))
    judgement = (d0 > d1).astype(jnp.float32)
    ranker = losses.Ranker()
    params = ranker.init(jax.random.key(0), d0, d1)
    shapes = jax.tree.map(jnp.shape, params["params"])
    assert shapes["hidden1"]["kernel"] == (5, 32)
    assert shapes["hidden2"]["kernel"] == (32, 32)
    assert shapes["logit"]["kernel"] == (32, 1)

    @jax.jit
    def step(params):
        value, slopes = jax.value_and_grad(
            lambda p: losses.choice_cross_entropy(ranker.apply(p, d0, d1), judgement)
        )(params)
        return value, jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes)

    first, params = step(params)
    for _ in range(100):
        last, params = step(params)
    assert last < 0.5 * first
