"""Makes piq.json: what piq, in float64, gives for the pairs of golden_pairs.py.

    python -m venv /tmp/piq && /tmp/piq/bin/pip install piq==0.8.0 torchvision pillow
    /tmp/piq/bin/python tests/golden/piq_values.py SHARED

in an environment of its own, since piq imports torchvision, which must fit PyTorch.
SHARED is the folder with the photographs, which must all be there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import golden_pairs
import numpy as np
import piq  # type: ignore[import-not-found]
import torch

MEASURES = {
    "vif": piq.vif_p,
    "fsim": lambda x, y: piq.fsim(x, y, chromatic=False),
    "fsimc": piq.fsim,
    "vsi": piq.vsi,
    "gmsd": piq.gmsd,
    "mdsi": piq.mdsi,
    "haarpsi": piq.haarpsi,
}


def values(reference: np.ndarray, distorted: np.ndarray) -> dict[str, float]:
    """All measures of two uint8 images."""
    x, y = (
        torch.from_numpy(image / 255).permute(2, 0, 1)[None]
        for image in (distorted, reference)  # piq's order
    )
    return {name: round(float(f(x, y)), 10) for name, f in MEASURES.items()}


def main() -> None:
    """Writes piq.json beside this file."""
    found = [
        {
            "name": name,
            "size": reference.shape[:2],
            "sha256": [golden_pairs.digest(x) for x in (reference, distorted)],
            "values": values(reference, distorted),
        }
        for name, reference, distorted in golden_pairs.pairs(Path(sys.argv[1]))
    ]
    if len(found) < len(golden_pairs.PAIRS):
        sys.exit(f"photographs are missing in {sys.argv[1]}")
    made_by = {"piq": piq.__version__, "torch": torch.__version__}
    text = json.dumps({"made_by": made_by, "pairs": found}, indent=1)
    Path(__file__).with_name("piq.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
