"""The files of an evaluation: JSON, tables, every score."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spips_jax.data.dataset import Dataset
from spips_jax.evaluation.published import SOURCES, published
from spips_jax.evaluation.results import EQUATIONS
from spips_jax.files import replacing
from spips_jax.kinds import PROTOCOLS

TITLES = {
    "srcc": "SRCC",
    "plcc": "PLCC",
    "krcc": "KRCC",
    "plcc_4": "PLCC, 4-parameter fit",
    "plcc_5": "PLCC, 5-parameter fit",
    "rmse": "RMSE",
    "outlier_ratio": "outlier ratio",
    "srcc_within": "SRCC within a reference",
    "krcc_within": "KRCC within a distortion",
    "two_afc": "2AFC",
    "map": "JND mAP",
}

NONE = "n/a"
"""Stands for a missing number in a table; a note below says why."""

WITHIN = ("srcc_within", "krcc_within")
"""The statistics that compare no opinions of different references."""

MARK = "†"
"""Marks statistics over opinions that the set's protocol does not compare."""

SEEN = "‡"
"""Marks metrics that have seen some of a set's examples or photographs in training."""

_BETTER = {True: "higher", False: "lower"}


def write_results(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Writes `results.json`, whole or not at all."""
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    _write(path, text + "\n")


def write_scores(
    path: str | os.PathLike[str],
    sets: Mapping[str, Dataset],
    scores: Mapping[str, Mapping[str, tuple[np.ndarray, Container[int]]]],
) -> None:
    """Writes every compared pair with its opinion and the score of every metric.

    Args:
      path: the CSV file, written whole or not at all.
      sets: by label.
      scores: of each set, by metric: `(N, n)`, and the positions of the examples that
        have no score, whose cells are empty.
    """
    labels = list(dict.fromkeys(label for one in scores.values() for label in one))
    columns = ("set", "split", "id", "reference_id", "distortion", "level")
    with (
        replacing(path) as partial,
        open(partial, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns, "reference", "image", "opinion", "value", *labels])
        for name, dataset in sets.items():
            index = dataset.index
            for row in range(len(dataset)):
                known = [name, *(index[column][row] for column in columns[1:])]
                opinion = [dataset.opinion, index[dataset.opinion][row]]
                for pair, images in enumerate(dataset.kind.compared):
                    values = [
                        "" if row in failed else one[row, pair]
                        for one, failed in (scores[name][label] for label in labels)
                    ]
                    writer.writerow([*known, *images, *opinion, *values])


def write_tables(path: str | os.PathLike[str], results: Mapping[str, Any]) -> None:
    """Writes `results.md`: the tables of `results`, to be read and pasted."""
    confidence = f"{100 * results['confidence']:g} %"
    lines = [
        "# Agreement with people",
        "",
        f"Brackets: {confidence} intervals, {results['samples']:,} bootstrap samples"
        " **over reference images**. Signs follow the directions that metrics and sets"
        " declare: larger is better, except for RMSE and outlier ratio.",
        "",
    ]
    for name, one in results["sets"].items():
        lines += _set(name, one, results["models"], confidence)
    lines += _made(results)
    _write(path, "\n".join(lines).rstrip() + "\n")


def _set(
    name: str, one: Mapping[str, Any], models: Mapping[str, Any], confidence: str
) -> list[str]:
    what = f"{_count(one)} examples, {one['references']:,} references"
    title = name if name == one["set"]["name"] else f"{name} ({one['set']['name']})"
    limits = [
        f"{key.replace('_', ' ')} {value}"
        for key, value in one["set"].items()
        if value and key != "name"
    ]
    lines = [f"## {title}", "", "; ".join([what, one["opinion"], *limits]) + ".", ""]
    lines += _protocol(one)
    shown = _shown(one)
    rows = [
        [called(one, label), _BETTER[models[label]["higher_is_better"]]]
        + [_number(values.get(key)) for key in shown]
        for label, values in one["models"].items()
    ]
    if "human" in one:
        ceiling = {one["main"]: one["human"]["value"]}
        rows.append(["a person", NONE] + [_number(ceiling.get(key)) for key in shown])
    titles = [title_of(one, key) for key in shown]
    lines += _table(["metric", "better", *titles], rows)
    if any(MARK in title for title in titles):
        lines += [
            f"{MARK} Over all examples, as the field reports it. The protocol does not"
            f" support it: opinions compare {PROTOCOLS[one['comparable']]}.",
            "",
        ]
    notes = [*_errors(one), *_failures(one), *_seen(one), *one["notes"]]
    lines += [*(f"- {note}" for note in notes), *([""] if notes else [])]
    lines += _differences(one, confidence)
    lines += _unseen(one, models, confidence)
    for column in ("distortion", "split", "level"):
        lines += _parts(one, column)
    lines += _published(one)
    return lines


def called(one: Mapping[str, Any], label: str) -> str:
    """What tables call a metric: marked where it has seen examples in training.

    Args:
      one: what `results.json` says of the set.
      label: the metric's, or another column's.
    """
    known = one.get("seen", {}).get(label)
    marked = known and (known["examples"] or known["scenes"])
    return f"{label} {SEEN}" if marked else label


def _count(one: Mapping[str, Any]) -> str:
    """How many examples the numbers are of, and of how many."""
    whole = max(one["selected"], one["published"] or 0)
    there = f"{one['examples']:,}"
    return there if one["examples"] >= whole else f"{there} of {whole:,}"


def _failures(one: Mapping[str, Any]) -> Iterator[str]:
    """What could not be scored, and that it is left out."""
    for label, failed in one["failed"].items():
        if "error" in one["models"][label]:
            continue
        (first, why), *_ = failed.items()
        yield (
            f"{label}: {len(failed):,} of {one['selected']:,} examples could not be"
            f" scored, and are left out for every metric; the first is {first}: {why}"
        )


def _seen(one: Mapping[str, Any]) -> Iterator[str]:
    """What metrics have seen of the examples in training."""
    for label, known in one["seen"].items():
        if known["trained_on"] is None:
            yield (
                f"{label}: its card does not say what it was trained on: whether it has"
                " seen these examples is unknown"
            )
            continue
        counts = [
            f"{known[key]:,} of these {one['examples']:,} examples {what}"
            for key, what in (
                ("examples", "are of references of this set that it was trained on"),
                ("scenes", "show photographs that it was trained on in another set"),
            )
            if known[key]
        ]
        doubt = "" if known["sure"] else "its card does not tell whether it saw others"
        if counts or doubt:
            mark = f"{SEEN} " if counts else ""
            yield (
                f"{mark}{label} (trained on {', '.join(known['trained_on'])}):"
                f" {'; '.join(filter(None, [*counts, doubt]))}"
            )


def _unseen(
    one: Mapping[str, Any], models: Mapping[str, Any], confidence: str
) -> list[str]:
    """The agreement on what no metric has seen in training."""
    if all(called(one, label) == label for label in one["models"]):
        return []
    lines = [
        f"**{SEEN} was trained on some of these examples or photographs: its numbers,"
        " and where it is ahead, do not tell how it does on new ones.**",
        "",
    ]
    if "unseen" not in one:
        return lines
    rest = one["unseen"]
    shown = _shown(rest)
    lines += [
        f"On the {rest['examples']:,} examples, of {rest['references']:,} references,"
        " that no metric here has seen, as far as their cards tell:",
        "",
        *_table(
            ["metric", "better", *(title_of(one, key) for key in shown)],
            [
                [label, _BETTER[models[label]["higher_is_better"]]]
                + [_number(values.get(key)) for key in shown]
                for label, values in rest["models"].items()
            ],
        ),
        *(f"- {note}" for note in rest["notes"]),
        *([""] if rest["notes"] else []),
    ]
    return lines + _differences(rest, confidence)


def title_of(one: Mapping[str, Any], key: str) -> str:
    """The title of a statistic of a set, marked where the protocol does not support it.

    Args:
      one: what `results_of` says of the set.
      key: a key of `TITLES`.
    """
    supported = one["comparable"] == "set" or key in WITHIN
    return TITLES[key] + ("" if supported else MARK)


def _protocol(one: Mapping[str, Any]) -> list[str]:
    """Over what opinions compare, and how far those of references spread."""
    if one["comparable"] == "set" and "spread_ratio" not in one:
        return []  # choices and JND: each example is a comparison of its own
    line = f"By the set's card, opinions compare {PROTOCOLS[one['comparable']]}."
    if one.get("spread_ratio") is not None:
        line += (
            " The standard deviation of the references' mean opinions is"
            f" {one['spread_ratio']:.3f} times that of all opinions."
        )
    return [line, ""]


def _shown(one: Mapping[str, Any]) -> list[str]:
    """The statistics that some metric has, the main one first."""
    shown = [
        key
        for key in sorted(TITLES, key=lambda key: key != one["main"])
        if any(values.get(key) is not None for values in one["models"].values())
    ]
    return shown or [one["main"]]


def _errors(one: Mapping[str, Any]) -> list[str]:
    return [
        f"{label}: {values['error']}: no agreement can be given"
        for label, values in one["models"].items()
        if "error" in values
    ]


def _differences(one: Mapping[str, Any], confidence: str) -> list[str]:
    if not one["differences"]:
        return []
    rows = [
        [
            f"{called(one, d['first'])} - {called(one, d['second'])}",
            f"{d['value']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]",
            f"{d['p_value']:.3g}",
            called(one, _winner(d)),
        ]
        for d in one["differences"]
    ]
    main = title_of(one, one["main"])
    return [
        f"Differences in {main}, both metrics on the same bootstrap samples; one is"
        f" ahead if the {confidence} interval excludes 0:",
        "",
        *_table(["metrics", f"difference in {main}", "p", "ahead"], rows),
    ]


def _winner(difference: Mapping[str, Any]) -> str:
    if difference["low"] > 0:
        return difference["first"]
    return difference["second"] if difference["high"] < 0 else "neither"


def parts_of(one: Mapping[str, Any], column: str) -> dict[str, Any]:
    """Each metric's `parts` of a set, for one column; {} if there are none."""
    return {
        label: values["parts"][column]
        for label, values in one["models"].items()
        if column in values.get("parts", {})
    }


def part_statistics(one: Mapping[str, Any], column: str) -> list[tuple[str, str]]:
    """Which statistics of a set's parts are shown: their keys in a part, their names.

    The main one; where some part has none within references, the overall one, too, and
    where no part has, that one alone.

    Args:
      one: what `results_of` says of the set, whose metrics have `parts`.
      column: which parts.
    """
    parts = [part for of in parts_of(one, column).values() for part in of.values()]
    overall = [name for name in parts[0] if name not in ("examples", "value")]
    missing = [part["value"] is None for part in parts]
    found = [] if overall and all(missing) else [("value", one["main"])]
    return found + [(name, name) for name in overall if any(missing)]


def _parts(one: Mapping[str, Any], column: str) -> list[str]:
    """The main statistic on each distortion, level or split, and their mean."""
    parts = parts_of(one, column)
    if not parts:
        return []
    return [
        line
        for key, statistic in part_statistics(one, column)
        for line in _part_table(one, column, parts, key=key, statistic=statistic)
    ]


def _part_table(
    one: Mapping[str, Any],
    column: str,
    parts: Mapping[str, Any],
    *,
    key: str,
    statistic: str,
) -> list[str]:
    labels = list(parts)
    examples = {name: f"{p['examples']:,}" for name, p in parts[labels[0]].items()}
    columns = {
        label: {name: part[key] for name, part in parts[label].items()}
        for label in labels
    }
    if "human" in one:
        columns["a person"] = one["human"]["parts"][column]
    rows = [
        [name, count, *(_number(values[name]) for values in columns.values())]
        for name, count in examples.items()
    ]
    # Over the parts that all columns have, so that means can be compared.
    whole = [
        name
        for name in examples
        if all(values[name] is not None for values in columns.values())
    ]
    of = f"the {len(rows)}"
    if len(whole) < len(rows):
        of = f"{len(whole)} of {of}"
    means = [
        float(np.mean([values[name] for name in whole])) if whole else None
        for values in columns.values()
    ]
    rows.append([f"mean over {of}", "", *map(_number, means)])
    why = ""
    if statistic != one["main"]:
        why = f", for want of three versions of each reference in each {column}"
    lines = [
        f"{title_of(one, statistic)} by {column}{why}:",
        "",
        *_table([column, "examples", *(called(one, x) for x in columns)], rows),
    ]
    if len(whole) < len(rows) - 1:
        lines += [
            f"{NONE}: too few examples of the {column} to be ordered (three are needed"
            " at least), or opinions that are all equal.",
            "",
        ]
    return lines


def _published(one: Mapping[str, Any]) -> list[str]:
    rows = published(one["set"]["name"])
    if not rows:
        return []
    table = [
        [
            row["metric"],
            row["part"] or "all of it",
            title_of(one, row["statistic"]),
            f"{row['value']:.4g}",
            f"[{row['source']}]",
        ]
        for row in rows
    ]
    sources = dict.fromkeys(row["source"] for row in rows)
    count = _count(one)
    here = f", where there are {count} examples" if "of" in count else ""
    return [
        f"Published by others, on the official set; **not measured here**{here}:",
        "",
        *_table(["metric", "of the set", "statistic", "published", "source"], table),
        *(f"- [{source}] {SOURCES[source]}" for source in sources),
        "",
    ]


def _made(results: Mapping[str, Any]) -> list[str]:
    """How the numbers were computed."""
    rows = []
    for label, one in results["models"].items():
        low, high = one["value_range"]
        digest = f"`{one['weights'][:16]}`"
        rows.append([label, one["name"], digest, one["dtype"], f"({low:g}, {high:g})"])
    fits = ", ".join(f"{count}: `{text}`" for count, text in EQUATIONS.items())
    packages = ", ".join(f"{n} {v}" for n, v in results["packages"].items())
    return [
        "## How",
        "",
        *_table(
            ["metric", "model", "SHA-256 of weights", "dtype", "declared range"], rows
        ),
        f"- `{results['command']}`",
        f"- on {results['devices']}; {packages}",
        "- Images are read as stored, in [0, 1], at their own size.",
        f"- Fits of opinions to scores, by least squares: {fits}. RMSE and outlier"
        " ratio are after the 4-parameter fit.",
        "- `scores.csv` has every pair, `results.json` all numbers.",
        "",
    ]


def _number(value: Any) -> str:
    """A number for a table, with its interval if it has one."""
    if value is None:
        return NONE
    if not isinstance(value, Mapping):
        return f"{value:.3f}"
    if value["low"] is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; a bar in a cell would end it."""
    lines = [header, ["---"] * len(header), *rows]
    return [
        *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in lines),
        "",
    ]


def _write(path: str | os.PathLike[str], text: str) -> None:
    with replacing(path) as partial:
        Path(partial).write_text(text, encoding="utf-8")
