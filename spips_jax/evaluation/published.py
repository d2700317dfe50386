"""Numbers published by others, shown beside measured ones and marked as such.

`published.csv` has them as printed, each with its source. They are for the whole set or
the named part, computed with the publishers' own code and images.
"""

from __future__ import annotations

import csv
from importlib import resources
from typing import Any

SOURCES = {
    "lpips": "R. Zhang, P. Isola, A. A. Efros, E. Shechtman, O. Wang, The unreasonable"
    " effectiveness of deep features as a perceptual metric, CVPR 2018, arXiv"
    " 1801.03924, table 5",
    "pyiqa": "C. Chen, J. Mo, IQA-PyTorch, tests/FR_benchmark_results.csv at commit"
    " 0d00073, github.com/chaofengc/IQA-PyTorch",
}
"""The reference for each `source` in the table."""


def published(name: str) -> list[dict[str, Any]]:
    """Returns the published numbers for a set, by its name, in the table's order.

    Each has `part` (a distortion of the set, "" for all of it), `statistic`, `metric`,
    `value` and `source`, a key of `SOURCES`.
    """
    file = resources.files("spips_jax.evaluation") / "published.csv"
    with file.open(encoding="utf-8") as lines:
        return [
            {
                "part": row["part"],
                "statistic": row["statistic"],
                "metric": row["metric"],
                "value": float(row["value"]),
                "source": row["source"],
            }
            for row in csv.DictReader(lines)
            if row["set"] == name
        ]
