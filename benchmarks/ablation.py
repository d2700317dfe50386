"""How well SPIPS agrees with people on what it was not trained on, and what each part
of it contributes: variants, judged on a panel.

    spips data prepare tid2013 --manual_dir ~/Downloads
    spips data prepare pair_list --csv live.csv --name live
    spips convert alexnet
    python benchmarks/ablation.py
    python benchmarks/ablation.py --model spips-lite --only full --seeds 2

trains the head of `configs/release.py` without some of its data, for every held-out
part at once, on the frozen backbone's pooled differences (in the cache of `spips
train`). Steps and losses are those of `spips train`; batches are drawn at random here,
whereas its loader iterates over the sets. It prints a table in Markdown. No judged pair
was seen in training, nor its photograph (by scene), nor its type of distortion (by
type), nor any pair of its set (by set); a part is held out of both sets at once:

- by scene, five folds of the photographs: the mean SRCC within TID2013's references,
  and SRCC over all of LIVE's pairs;
- by type: the mean SRCC within TID2013's references on the levels of a type that was
  left out, its mean over types, and the worst type;
- by set: LIVE by a head trained on TID2013 alone, and the other way round.

With `--second SET`, a pair list whose scores are those of other observers for some of
TID2013's images, the scores by scene are also compared with these, within references,
and TID2013's own with them, which is about as well as anything can agree.

Brackets are bootstrap intervals over references. A change that gains in one column and
loses in another is no gain.
"""

from __future__ import annotations

import argparse
import dataclasses
import runpy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from spips_jax import data, parallel
from spips_jax.agreement import (
    Interval,
    bootstrap_draws,
    difference,
    interval,
    orient,
    srcc,
    within_references,
)
from spips_jax.cache import cache_compilations
from spips_jax.data import Dataset
from spips_jax.data.splits import assign_folds
from spips_jax.training import loop, setup, step
from spips_jax.training.objectives import Objective
from spips_jax.training.state import TrainState, unflatten

CONFIG = Path(__file__).parent.parent / "configs" / "release.py"
FOLDS = 5
WITHIN, ACROSS = "tid2013", "live"
"""The config's sets: opinions that compare within a reference, and across them."""

SAME = {"jp2k": "jpeg2000", "wn": "additive_gaussian_noise", "gblur": "gaussian_blur"}
"""LIVE's names of TID2013's types."""

FULL = "full"
PAPER = "psnr,ssim,ms_ssim"
OURS = f"{PAPER},haarpsi,gmsd"
MAPS = f"{OURS},mdsi"
"""All that a variant may have: pairs are pooled once."""
VARIANTS: dict[str, dict[str, Any]] = {
    FULL: {"classical": OURS},
    "with MDSI's map": {"classical": MAPS},
    "the paper's three maps": {"classical": PAPER},
    **{f"and {one}": {"classical": f"{PAPER},{one}"} for one in ("gmsd", "haarpsi")},
    "without SSIM, MS-SSIM": {"classical": "psnr,haarpsi,gmsd"},
    "classical only": {"streams": "classical", "trainable": "head,gain"},
    "perceptual only": {"streams": "perceptual"},
    "semantic only": {"streams": "semantic", "trainable": "head,gain"},
    "without classical": {"streams": "perceptual,semantic"},
    "without semantic": {"streams": "perceptual,classical"},
    "without perceptual": {"streams": "semantic,classical", "trainable": "head,gain"},
    "squared differences only": {"statistics": "squares"},
    "without texture": {"statistics": "squares,structure"},
    "without facts": {"trainable": "perceptual,head"},
    "free head": {"head": "free"},
    "uniform channels": {"trainable": "head,gain"},
    "semantic channels trained": {"trainable": "perceptual,semantic,head,gain"},
    "loss: ranks": {"losses": {"rank": 1.0, "l1": 0.1}},
    "loss: L1": {"losses": {"l1": 1.0}},
    "TID2013 across references": {"comparable": "set"},
}


def configured(config: ConfigDict, variant: Mapping[str, Any]) -> ConfigDict:
    """The config of a variant."""
    config = config.copy_and_resolve_references()
    for name, value in {**VARIANTS[FULL], **variant}.items():
        if name == "losses":
            for source in config.data.train.values():
                source.losses = ConfigDict(value)
        elif name != "comparable":
            config.model[name] = value
    if "semantic" in config.model.trainable:
        config.optim.multipliers.semantic = config.optim.multipliers.perceptual
    return config


@dataclass(frozen=True)
class Rows:
    """A set's pairs.

    Attributes:
      dataset: the pairs, pooled.
      columns: what a step needs of them, by name, `(N, ...)`.
      fold: of each, 1 to `FOLDS`, by photograph.
      type: of each, by TID2013's name.
    """

    dataset: Dataset
    columns: dict[str, np.ndarray]
    fold: np.ndarray
    type: np.ndarray

    @property
    def opinions(self) -> np.ndarray:
        """`(N,)`, rising with distances."""
        return rising(self.dataset)

    @property
    def references(self) -> np.ndarray:
        return self.dataset.index["reference_id"]


def rising(dataset: Dataset) -> np.ndarray:
    """A set's opinions `(N,)`, float64, rising with distances."""
    opinions = np.asarray(dataset.index[dataset.opinion], np.float64)
    return orient(opinions, dataset.opinion, higher_is_better=False)


def rows_of(dataset: Dataset) -> Rows:
    references = dataset.index["reference_id"].tolist()
    folds = assign_folds(set(references), FOLDS, dataset=dataset.name)
    names = [SAME.get(name, name) for name in dataset.index["distortion"].tolist()]
    return Rows(
        dataset,
        {
            step.POOLED: np.stack([example[step.POOLED] for example in dataset]),
            dataset.opinion: np.asarray(dataset.index[dataset.opinion], np.float32),
            "group": np.unique(references, return_inverse=True)[1].astype(np.int32),
        },
        np.array([folds[name] for name in references]),
        np.array(names),
    )


Held = dict[str, dict[str, np.ndarray]]
"""By name of what is held out, by set, a mask of its rows `(N,)`."""


def held_out(sets: Mapping[str, Rows]) -> Held:
    """What each model does not see: folds, then types, then sets."""
    parts: Held = {}
    for number in range(1, FOLDS + 1):
        parts[f"fold {number}"] = {k: one.fold == number for k, one in sets.items()}
    for name in types_of(sets):
        parts[name] = {k: one.type == name for k, one in sets.items()}
    for left_out in sets:
        parts[f"without {left_out}"] = {
            k: np.full(len(one.dataset), k == left_out) for k, one in sets.items()
        }
    return parts


def types_of(sets: Mapping[str, Rows]) -> list[str]:
    return sorted(set(sets[WITHIN].type.tolist()))


def scores(
    config: ConfigDict,
    model: setup.Model,
    objectives: Mapping[str, Objective],
    sets: Mapping[str, Rows],
    held: Held,
) -> dict[str, dict[str, np.ndarray]]:
    """By what was held out, by set, the scores `(N,)` of all its rows."""
    # Pooled pairs need no backbone.
    frozen = {
        path: value
        for path, value in model.frozen.items()
        if not path.startswith(setup.BACKBONE)
    }
    rows = {
        label: {name: jnp.asarray(column) for name, column in one.columns.items()}
        for label, one in sets.items()
    }
    tx = setup.build_optimizer(config)

    def trainer(label: str) -> Callable[..., TrainState]:
        train_step = partial(
            step.train_step,
            network=model.network,
            objective=objectives[label],
            tx=tx,
            decay=config.optim.average,
        )
        # Each model acts as its own device: losses of a batch stay within the model.
        alone = jax.vmap(
            train_step,
            in_axes=(None, None, 0),
            out_axes=None,
            axis_name=parallel.AXIS,
            axis_size=1,
        )

        def update(state: TrainState, taken: jax.Array, sees: jax.Array) -> TrainState:
            batch = {name: column[taken][None] for name, column in rows[label].items()}
            after = alone(state, frozen, batch)[0]
            # A model that sees nothing of a set stays as it is.
            return jax.tree.map(lambda a, b: jnp.where(sees, a, b), after, state)

        return jax.jit(jax.vmap(update), donate_argnums=0)

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def score(state: TrainState, pooled: jax.Array) -> jax.Array:
        tree = unflatten(frozen, state.evaluation_params)
        kind = objectives[WITHIN].kind
        return model.network.distances(tree, {step.POOLED: pooled}, kind)[:, 0]

    rng = np.random.default_rng(config.seed)
    trainers = {label: trainer(label) for label in sets}
    seen = {
        label: [np.flatnonzero(~part[label]) for part in held.values()]
        for label in sets
    }
    weights = np.array([config.data.train[label].weight for label in sets])
    fresh = setup.build_state(config, model, tx)
    states = jax.tree.map(lambda x: jnp.stack([x] * len(held)), fresh)
    for label in rng.choice(list(sets), config.num_steps, p=weights / weights.sum()):
        taken = [
            rng.choice(of, config.batch_size, replace=len(of) < config.batch_size)
            if len(of)
            else np.zeros(config.batch_size, int)
            for of in seen[label]
        ]
        sees = jnp.array([len(of) > 0 for of in seen[label]])
        states = trainers[label](states, jnp.asarray(np.array(taken)), sees)
    found = {label: score(states, one[step.POOLED]) for label, one in rows.items()}
    return {
        name: {label: np.asarray(values[k]) for label, values in found.items()}
        for k, name in enumerate(held)
    }


Agreement = tuple[float, np.ndarray]
"""A number, and its bootstrap draws."""


@dataclass(frozen=True)
class Panel:
    """What is judged: see the module. `unseen` has the scores by scene, `(N,)`."""

    unseen: dict[str, np.ndarray]
    scene_within: Agreement
    scene_across: Agreement
    types: dict[str, float]
    set_across: Agreement
    set_within: Agreement


def within(one: Rows, predicted: np.ndarray) -> Agreement:
    found = within_references(srcc, predicted, one.opinions, references=one.references)
    drawn = bootstrap_draws(np.mean, found.values, references=found.references)
    return found.mean, drawn


def across(one: Rows, predicted: np.ndarray) -> Agreement:
    columns = (predicted, one.opinions)
    return srcc(*columns), bootstrap_draws(srcc, *columns, references=one.references)


def panel(
    found: Mapping[str, Mapping[str, np.ndarray]], sets: Mapping[str, Rows]
) -> Panel:
    tid, live = sets[WITHIN], sets[ACROSS]
    unseen = {
        label: np.choose(
            one.fold - 1, [found[f"fold {k}"][label] for k in range(1, FOLDS + 1)]
        )
        for label, one in sets.items()
    }
    types = {}
    for name in types_of(sets):
        of = tid.type == name
        predicted = found[name][WITHIN][of]
        types[name] = within_references(
            srcc, predicted, tid.opinions[of], references=tid.references[of]
        ).mean
    return Panel(
        unseen,
        within(tid, unseen[WITHIN]),
        across(live, unseen[ACROSS]),
        types,
        across(live, found[f"without {ACROSS}"][ACROSS]),
        within(tid, found[f"without {WITHIN}"][WITHIN]),
    )


def second_opinion(second: Dataset, tid: Rows, predicted: np.ndarray) -> str:
    """A line: agreement with a set's opinions of images that TID2013 has, too."""
    rows = {name.upper(): row for row, name in enumerate(tid.dataset.index["id"])}
    taken = [rows[Path(name).stem.upper()] for name in second.index["id"].tolist()]
    theirs = rising(second)
    found = [
        within_references(srcc, one[taken], theirs, references=tid.references[taken])
        for one in (predicted, tid.opinions)
    ]
    return (
        f"  {second.name}, {len(taken)} images: within {found[0].mean:.3f}, TID2013's"
        f" own opinions {found[1].mean:.3f}"
    )


def shown(value: Agreement, full: Agreement | None) -> str:
    """A number with its interval, or its difference to that of the full model."""
    if full is None:
        one = interval(*value)
        return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"
    one: Interval = difference(value, full)
    return f"{value[0]:.3f}, {one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"


def lines(
    args: argparse.Namespace, base: ConfigDict, sets: Mapping[str, Rows]
) -> Iterator[str]:
    held = held_out(sets)
    second = data.load(args.second) if args.second else None
    whole = setup.build_model(base).network.pooled
    yield (
        "| variant | by scene: TID2013, within | LIVE, across | by type: mean | worst |"
        " by set: LIVE | TID2013, within |"
    )
    yield "|---|---|---|---|---|---|---|"
    full: Panel | None = None
    for name in args.only:
        for seed in range(args.seeds):
            config = configured(base, VARIANTS[name])
            config.seed = seed
            model = setup.build_model(config)
            # All variants see parts of the same pooled pairs.
            network = dataclasses.replace(model.network, pooled=whole)
            model = dataclasses.replace(model, network=network)
            objectives = {}
            for label, source in config.data.train.items():
                one = setup.build_objective(label, sets[label].dataset, source)
                if label == WITHIN and "comparable" in VARIANTS[name]:
                    one = dataclasses.replace(one, comparable="set")
                objectives[label] = one
            found = panel(scores(config, model, objectives, sets, held), sets)
            worst = min(found.types, key=found.types.__getitem__)
            cells = [
                name if args.seeds == 1 else f"{name}, seed {seed}",
                shown(found.scene_within, full and full.scene_within),
                shown(found.scene_across, full and full.scene_across),
                f"{np.mean(list(found.types.values())):.3f}",
                f"{found.types[worst]:.2f} {worst}",
                shown(found.set_across, full and full.set_across),
                shown(found.set_within, full and full.set_within),
            ]
            yield f"| {' | '.join(cells)} |"
            if second:
                yield second_opinion(second, sets[WITHIN], found.unseen[WITHIN])
            if args.verbose:
                yield "  " + ", ".join(f"{k} {v:.2f}" for k, v in found.types.items())
            if name == FULL and full is None:
                full = found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=" ".join(__doc__.partition(".\n")[0].split()) + "."
    )
    parser.add_argument("--model", default="spips-alexnet", help="default: %(default)s")
    parser.add_argument("--weights", default="", help="the backbone's file")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=1, help="runs of each variant")
    parser.add_argument("--second", default="", help="a set of other observers")
    parser.add_argument("--verbose", action="store_true", help="each type")
    args = parser.parse_args()
    cache_compilations()

    base = runpy.run_path(str(CONFIG))["get_config"]()
    base.model.name, base.model.weights = args.model, args.weights
    base.model.classical = MAPS
    network = setup.build_model(base)
    sets = {
        label: rows_of(
            loop.open_pooled(
                base, network, network.frozen, partial(setup.open_set, base), source
            )
        )
        for label, source in base.data.train.items()
    }
    for label, one in sets.items():
        count = len(one.dataset.references)
        print(f"{label}: {len(one.dataset)} pairs, {count} references")
    print(f"\n{args.model}\n")
    for line in lines(args, base, sets):
        print(line, flush=True)


if __name__ == "__main__":
    main()
