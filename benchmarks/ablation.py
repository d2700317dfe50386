"""What each part of SPIPS contributes: variants cross-validated on human scores.

    spips data prepare tid2013 --manual_dir ~/Downloads
    spips convert alexnet
    python benchmarks/ablation.py
    python benchmarks/ablation.py --model spips-lite --only full --seeds 2

trains the head of `configs/tid2013.py` once for each of five folds by reference and
once for each distortion type left out, all at the same time, on the frozen backbone's
pooled differences (in the cache of `spips train`). It prints a table in Markdown:

- by reference: mean SRCC over the five held-out folds, its interval from a bootstrap of
  the references, and its difference to the full model on the same resamples;
- left out: SRCC within a distortion type not seen in training, as the mean over types
  and for the worst type, and SRCC over all rows, each scored by the model that was not
  trained on its type.

Steps and losses are those of `spips train`; batches are drawn at random here, whereas
its loader iterates over the set.
"""

from __future__ import annotations

import argparse
import dataclasses
import runpy
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spips_jax import parallel
from spips_jax.agreement import Interval, bootstrap_draws, difference, interval, srcc
from spips_jax.cache import cache_compilations
from spips_jax.data.splits import assign_folds
from spips_jax.training import loop, setup, step
from spips_jax.training.objectives import Objective
from spips_jax.training.state import TrainState, unflatten

CONFIG = Path(__file__).parent.parent / "configs" / "tid2013.py"
FOLDS = 5

FULL = "full"
VARIANTS: dict[str, dict[str, Any]] = {
    FULL: {},
    "classical only": {"streams": "classical", "trainable": "head,gain"},
    "perceptual only": {
        "streams": "perceptual",
        "trainable": "perceptual,head,gain",
    },
    "semantic only": {"streams": "semantic", "trainable": "semantic,head,gain"},
    "without classical": {"streams": "perceptual,semantic"},
    "without semantic": {
        "streams": "perceptual,classical",
        "trainable": "perceptual,head,gain",
    },
    "without perceptual": {
        "streams": "semantic,classical",
        "trainable": "semantic,head,gain",
    },
    "squared differences only": {"statistics": "squares"},
    "without facts": {"trainable": "perceptual,semantic,head"},
    "free head": {"head": "free"},
    "free head without facts": {
        "head": "free",
        "trainable": "perceptual,semantic,head",
    },
    "uniform channels": {"trainable": "head,gain"},
    "loss: 1 - PLCC": {"losses": {"plcc": 1.0, "l1": 0.1}},
    "loss: ranks": {"losses": {"rank": 1.0, "l1": 0.1}},
    "loss: L1": {"losses": {"l1": 1.0}},
}


def configured(config: ConfigDict, variant: dict[str, Any]) -> ConfigDict:
    """The config of a variant."""
    config = config.copy_and_resolve_references()
    for name, value in variant.items():
        if name == "losses":
            config.data.train.tid2013.losses = ConfigDict(value)
        else:
            config.model[name] = value
    return config


def splits(references: np.ndarray, types: np.ndarray) -> Iterator[tuple[str, Any]]:
    """Yields the name and row mask of each held-out part: folds first, then types."""
    folds = assign_folds(references.tolist(), FOLDS)
    fold = np.array([folds[name] for name in references.tolist()])
    for number in range(1, FOLDS + 1):
        yield f"fold {number}", fold == number
    for name in sorted(set(types.tolist())):
        yield name, types == name


def scores(
    config: ConfigDict,
    model: setup.Model,
    objective: Objective,
    columns: dict[str, np.ndarray],
    held: list[np.ndarray],
) -> np.ndarray:
    """Scores `(K, N)` of all rows by K models; model k is trained without `held[k]`."""
    # Pooled pairs need no backbone.
    frozen = {
        path: value
        for path, value in model.frozen.items()
        if not path.startswith(setup.BACKBONE)
    }
    rows = {name: jnp.asarray(column) for name, column in columns.items()}
    tx = setup.build_optimizer(config)
    train_step = partial(
        step.train_step,
        network=model.network,
        objective=objective,
        tx=tx,
        decay=config.optim.average,
    )
    # Each model acts as its own device, so losses across a batch stay within the model.
    alone = jax.vmap(
        train_step,
        in_axes=(None, None, 0),
        out_axes=None,
        axis_name=parallel.AXIS,
        axis_size=1,
    )

    def update(state: TrainState, taken: jax.Array) -> TrainState:
        batch = {name: column[taken][None] for name, column in rows.items()}
        return alone(state, frozen, batch)[0]

    @jax.jit
    def train(states: TrainState, drawn: jax.Array) -> TrainState:
        def body(states: TrainState, taken: jax.Array) -> tuple[TrainState, None]:
            return jax.vmap(update)(states, taken), None

        return jax.lax.scan(body, states, drawn)[0]

    @jax.jit
    @jax.vmap
    def score(state: TrainState) -> jax.Array:
        tree = unflatten(frozen, state.evaluation_params)
        batch = {step.POOLED: rows[step.POOLED]}
        return model.network.distances(tree, batch, objective.kind)[:, 0]

    rng = np.random.default_rng(config.seed)
    drawn = np.array(
        [
            [rng.choice(seen, config.batch_size, replace=False) for seen in training]
            for training in [[np.flatnonzero(~out) for out in held]]
            for _ in range(config.num_steps)
        ]
    )
    fresh = setup.build_state(config, model, tx)
    states = jax.tree.map(lambda x: jnp.stack([x] * len(held)), fresh)
    return np.asarray(score(train(states, jnp.asarray(drawn))))


def by_reference(
    found: np.ndarray, held: list[np.ndarray], mos: np.ndarray, references: np.ndarray
) -> tuple[float, np.ndarray]:
    """The mean SRCC of the held-out folds, and its bootstrap draws."""
    values, drawn = [], []
    for predicted, out in zip(found, held, strict=True):
        columns = (-predicted[out], mos[out])
        values.append(srcc(*columns))
        drawn.append(bootstrap_draws(srcc, *columns, references=references[out]))
    # Folds share no reference, so resampling each fold separately resamples the whole.
    return float(np.mean(values)), np.mean(drawn, axis=0)


def shown(found: Interval) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="spips-alexnet", help="default: %(default)s")
    parser.add_argument("--weights", default="", help="the backbone's file")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=1, help="runs of each variant")
    parser.add_argument("--verbose", action="store_true", help="each fold and type")
    args = parser.parse_args()
    cache_compilations()

    base = runpy.run_path(str(CONFIG))["get_config"]()
    base.model.name, base.model.weights = args.model, args.weights
    source = next(iter(base.data.train.values()))
    network = setup.build_model(base)
    dataset = loop.open_pooled(
        base, network, network.frozen, partial(setup.open_set, base), source
    )
    objective = setup.build_objective("tid2013", dataset, source)
    mos = np.asarray(dataset.index["mos"], np.float64)
    references, types = (
        np.asarray(dataset.index[name]) for name in ("reference_id", "distortion")
    )
    columns = {
        step.POOLED: np.stack([example[step.POOLED] for example in dataset]),
        "mos": np.asarray(dataset.index["mos"], np.float32),
    }
    held = dict(splits(references, types))
    folds, kinds = list(held.values())[:FOLDS], list(held.values())[FOLDS:]

    print(
        f"{args.model}, {len(mos)} rows, {len(set(references.tolist()))} references\n"
    )
    print(
        "| variant | by reference | difference to full | left out: mean | worst | all |"
    )
    print("|---|---|---|---|---|---|")
    full = None
    for name in args.only:
        for seed in range(args.seeds):
            config = configured(base, VARIANTS[name])
            config.seed = seed
            model = setup.build_model(config)
            one = dataclasses.replace(
                objective,
                weights=tuple(sorted(config.data.train.tid2013.losses.items())),
            )
            found = scores(config, model, one, columns, list(held.values()))
            value, drawn = by_reference(found[:FOLDS], folds, mos, references)
            if name == FULL and full is None:
                full = (value, drawn)
            within = {
                str(types[out][0]): srcc(-predicted[out], mos[out])
                for predicted, out in zip(found[FOLDS:], kinds, strict=True)
            }
            unseen = np.zeros(len(mos))
            for predicted, out in zip(found[FOLDS:], kinds, strict=True):
                unseen[out] = predicted[out]
            worst = min(within, key=within.__getitem__)
            itself = interval(value, drawn)
            cells = [
                name if args.seeds == 1 else f"{name}, seed {seed}",
                f"{value:.3f} [{itself.low:.3f}, {itself.high:.3f}]",
                shown(difference((value, drawn), full)) if full else "",
                f"{np.mean(list(within.values())):.3f}",
                f"{within[worst]:.2f} {worst}",
                f"{srcc(-unseen, mos):.3f}",
            ]
            print(f"| {' | '.join(cells)} |", flush=True)
            if args.verbose:
                each = [
                    f"{srcc(-predicted[out], mos[out]):.3f}"
                    for predicted, out in zip(found[:FOLDS], folds, strict=True)
                ]
                print(f"  folds {' '.join(each)}")
                print("  " + ", ".join(f"{k} {v:.2f}" for k, v in within.items()))


if __name__ == "__main__":
    main()
