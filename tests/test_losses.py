"""Losses: NumPy references, finite differences in float64, masks, odd batches."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
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


def deviations(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """From the mean of each row's group, for rows that are not alone in it."""
    alone = [np.sum(groups == group) < 2 for group in groups]
    means = [values[groups == group].mean() for group in groups]
    return (values - means)[~np.array(alone)]


def plcc_reference(scores, opinions, groups) -> float:
    x, y = deviations(scores, groups), deviations(opinions, groups)
    return float(1 - np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y)))


def l1_reference(scores, opinions, groups) -> float:
    x, y = deviations(scores, groups), deviations(opinions, groups)
    return float(np.mean(np.abs(x - y)))


GROUPED = {
    "plcc": (losses.plcc_loss, plcc_reference),
    "rank": (losses.rank_loss, lambda s, o, g: rank_reference(s, o, g, 1.0)),
    "l1": (losses.l1_loss, l1_reference),
}
GROUPS = np.array([7, 7, 7, 2, 2, 2, 2, 9, 9, 9, 9, 5])
"""Of the rows of `batch`; the last is alone."""


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


@pytest.mark.parametrize("name", GROUPED)
def test_groups_are_compared_within(name: str) -> None:
    """On scores and opinions that differ more between groups than within them."""
    loss, reference = GROUPED[name]
    scores, opinions, _ = batch()
    scores, opinions = scores + GROUPS, opinions - 2 * GROUPS
    expected = reference(scores, opinions, GROUPS)
    grouped = {"groups": jnp.array(GROUPS)}
    value = loss(jnp.array(scores), jnp.array(opinions), **grouped)
    # Float32, of differences of numbers up to 20.
    assert value == pytest.approx(expected, abs=1e-5)
    assert abs(value - loss(jnp.array(scores), jnp.array(opinions))) > 0.1
    # The row that is alone, and rows in any order.
    other = loss(jnp.array(scores).at[-1].set(1e9), jnp.array(opinions), **grouped)
    assert other == pytest.approx(float(value), abs=1e-6)
    order = np.random.default_rng(1).permutation(N)
    arrays = (jnp.array(v[order]) for v in (scores, opinions))
    value = loss(*arrays, groups=jnp.array(GROUPS[order]))
    assert value == pytest.approx(expected, abs=1e-5)
    # Without rows that a mask leaves out: those of 2 are two then, that of 5 is alone.
    mask = np.array([True] * 5 + [False] * 2 + [True] * 5)
    hidden = jnp.array(np.where(mask, scores, np.nan))
    value = loss(hidden, jnp.array(opinions), mask=jnp.array(mask), **grouped)
    expected = reference(scores[mask], opinions[mask], GROUPS[mask])
    assert value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["plcc", "l1"])
def test_one_group_is_the_whole_batch(name: str) -> None:
    """Of centred values, for L1, which then compares deviations."""
    scores, opinions, _ = batch()
    scores, opinions = scores - scores.mean(), opinions - opinions.mean()
    loss, _ = GROUPED[name]
    whole, grouped = (
        loss(jnp.array(scores), jnp.array(opinions), groups=groups)
        for groups in (None, jnp.zeros(N, int))
    )
    assert grouped == pytest.approx(float(whole), abs=1e-6)  # float32


@given(
    seed=st.integers(0, 2**32 - 1),
    groups=st.lists(st.integers(0, 3), min_size=N, max_size=N),
    shifts=st.tuples(*[st.floats(-8, 8, width=32)] * 8),
)
def test_a_shift_of_a_group_changes_nothing(seed, groups, shifts) -> None:
    """What a photograph adds to all its scores or opinions is not compared."""
    scores, opinions, _ = batch(seed)
    codes = np.array(groups)
    per_row = np.array(shifts).reshape(2, 4)[:, codes]
    for name, (loss, _) in GROUPED.items():
        before, after = (
            loss(jnp.array(s), jnp.array(o), groups=jnp.array(codes))
            for s, o in (
                (scores, opinions),
                (scores + per_row[0], opinions + per_row[1]),
            )
        )
        # Shifted float32 numbers keep about six digits.
        assert after == pytest.approx(float(before), abs=1e-3), name


def within(loss, scores, opinions, **options):
    """The loss with the first of `GROUPS`."""
    return loss(scores, opinions, groups=jnp.array(GROUPS[: len(scores)]), **options)


LOSSES = {
    "choice": lambda s, o, **k: losses.choice_cross_entropy(s, jax.nn.sigmoid(o), **k),
    "plcc": losses.plcc_loss,
    "rank": losses.rank_loss,
    "l1": losses.l1_loss,
    **{f"{name} within": partial(within, loss) for name, (loss, _) in GROUPED.items()},
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


@pytest.mark.parametrize(
    ("groups", "scores"),
    [
        *((None, np.full(N, constant)) for constant in (0.0, 0.1, 1e6)),
        (GROUPS, np.full(N, 0.1)),
        (GROUPS, GROUPS / 10),
        (np.arange(N), batch()[0]),
    ],
    ids=["0", "0.1", "1e6", "all", "in each group", "all alone"],
)
def test_a_constant_has_a_plcc_loss_of_one(groups, scores) -> None:
    value, gradient = jax.value_and_grad(losses.plcc_loss)(
        jnp.array(scores),
        jnp.array(batch()[1]),
        groups=None if groups is None else jnp.array(groups),
    )
    assert value == 1
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_left_is_a_loss_of_zero(name: str) -> None:
    scores, opinions, _ = batch()
    value = LOSSES[name](
        jnp.array(scores), jnp.array(opinions), mask=jnp.zeros(N, bool)
    )
    assert value == (1 if "plcc" in name else 0)


def test_gathered_batches_do_not_depend_on_the_devices() -> None:
    """The way the module says: on 2 devices what it is on one."""
    scores, opinions, _ = batch()

    def gathered(loss, *columns):
        s, o, g = (jax.lax.all_gather(v, "d", tiled=True) for v in columns)
        return jnp.stack([loss(s, o), loss(s, o, groups=g)])

    for loss, _ in GROUPED.values():
        columns = [jnp.array(v) for v in (scores, opinions, GROUPS)]
        parts = [v.reshape(2, -1) for v in columns]
        mapped = jax.pmap(partial(gathered, loss), axis_name="d")(*parts)
        s, o, g = columns
        expected = [loss(s, o), loss(s, o, groups=g)]
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
