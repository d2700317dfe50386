"""What is measured: every case, its sides, and what each side is asked to do."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import worker

SIZES = (
    (16, 64, 64),
    (1, 256, 256),
    (4, 256, 256),
    (8, 256, 256),
    (1, 384, 512),
    (1, 1080, 1920),
)
"""(N, H, W)."""

SPIPS = {
    "spips-lite": "lpips-alexnet",
    "spips-alexnet": "lpips-alexnet",
    "spips-vgg16": "lpips-vgg16",
}
"""SPIPS models, and the LPIPS of about as much work that PyTorch runs beside each."""

ALIKE = {
    "lpips-alexnet": ("torch", "torch.compile"),
    "lpips-vgg16": ("torch", "torch.compile"),
    "dists": ("piq",),
    "ssim": ("piq", "pytorch-msssim"),
    "ms-ssim": ("piq", "pytorch-msssim"),
    "vif": ("piq",),
    "fsim": ("piq",),
    "fsimc": ("piq",),
    "vsi": ("piq",),
    "gmsd": ("piq",),
    "mdsi": ("piq",),
    "haarpsi": ("piq",),
    "psnr": ("piq",),
}
"""Metrics that both sides have, and the peers' packages."""

SOME_SIZES = {
    "lpips-alexnet": SIZES[:5],
    "lpips-vgg16": SIZES[1:2],
    "dists": SIZES[1:2],  # piq scales larger images down
    **dict.fromkeys(("psnr", "vif", "fsimc", "vsi", "gmsd", "mdsi"), SIZES[1:5:3]),
}
"""Of the metrics that are not measured at all sizes."""

COMPILED_SIZES = SIZES[1:5:3]
"""Those at which torch.compile, which takes long, is beside PyTorch."""

README = (
    "spips-squeezenet", "spips-alexnet", "spips-lite", "vsi", "mdsi", "haarpsi",
    "lpips-alexnet", "ms-ssim", "fsim", "vif", "psnr", "ssim",
)  # fmt: skip
"""Those of README's first table."""

LOSSES = {
    "spips-lite": ("lpips-alexnet", "lpips-vgg16"),
    "spips-alexnet": ("lpips-alexnet",),
    "spips-vgg16": ("lpips-vgg16",),
}
"""Models as losses, and the LPIPS beside each."""

LOSS_SIZES = ((1, 256, 256), (4, 256, 256), (1, 512, 512))


SIDE, COPIED = 3072, 2**29
"""Of the matrices whose product, and the bytes whose copy, measure the machine."""


@dataclass(frozen=True)
class Request:
    """A side that a worker does: "ours" or "peer"."""

    by: str
    spec: dict[str, Any]


@dataclass(frozen=True)
class Program:
    """A side that is a process.

    Attributes:
      command: its words.
      home: its SPIPS_HOME: a folder that stays, so that it finds what it compiled in
        the first, untimed run; "" for an empty one in each run.
      unit: "s": its time from start to end; "MiB": what its last line says.
      rate: for "s", a key of the JSON object in its last line, a number of times in a
        second, whose inverse takes the place of the process's time.
    """

    command: tuple[str, ...]
    home: str = ""
    unit: str = "s"
    rate: str = ""


@dataclass(frozen=True)
class Case:
    """A row for each peer.

    Attributes:
      name: its group first: "score/spips-lite/256x256x4".
      sides: by name, ours first.
      rounds: at most so many.
      alike: whether all sides compute the same number, which is then compared.
      floor: where the time has a floor: how often the backbone's work on one image,
        and the spec that counts this work.
    """

    name: str
    sides: dict[str, Request | Program]
    rounds: int = 1000
    alike: bool = False
    floor: tuple[int, dict[str, Any]] | None = None


def all_cases(scratch: Path, peers: str, *, large: bool) -> Iterator[Case]:
    """Every case in the order in which they run.

    Args:
      scratch: an empty folder for what processes read and keep.
      peers: the Python that has the peers' packages.
      large: whether to measure memory at 108 megapixels, too.
    """
    for what, name, spec in (
        ("matmul", "JAX", {"what": "matmul", "side": SIDE}),
        ("copy", "NumPy", {"what": "copy", "bytes": COPIED}),
    ):
        sides = {name: Request("ours", spec), "torch": Request("peer", spec)}
        yield Case(f"machine/{what}", sides)
    for what in ("score", "gradient"):
        for metric, peer in SPIPS.items():
            for size in SIZES:
                yield _network(what, metric, peer, ("torch",), size)
        for metric, packages in ALIKE.items():
            for size in SOME_SIZES.get(metric, SIZES):
                yield _network(what, metric, metric, packages, size)
    yield from _readme()
    yield from _losses()
    yield from _backbones()
    yield from _sets()
    yield from _processes(scratch, peers)
    yield from _compilation()
    yield from _memory(scratch, peers, large=large)
    yield from _training(scratch)


def _network(
    what: str, metric: str, peer: str, packages: Sequence[str], size: tuple[int, ...]
) -> Case:
    n, height, width = size
    spec = {"what": what, "metric": metric, "size": size}
    sides: dict[str, Request | Program] = {metric: Request("ours", spec)}
    for package in packages:
        if package != "torch.compile" or size in COMPILED_SIZES:
            name = f"{package} {peer}" if peer != metric else package
            more = {"metric": peer, "library": package}
            sides[name] = Request("peer", {**spec, **more})
    floor = None
    if metric in SPIPS or metric.startswith(("lpips", "dists")):
        # Both images forward; for a gradient, one backward, too, as much work again.
        times = n * (3 if what == "gradient" else 2)
        floor = (times, {"what": "count", "metric": metric, "size": size})
    return Case(
        f"{what}/{metric}/{width}x{height}x{n}",
        sides,
        alike=peer == metric and metric != "dists",  # whose weights differ
        floor=floor,
    )


def _readme() -> Iterator[Case]:
    """The columns of README's first table: each metric beside LPIPS in PyTorch."""
    size = (1, 384, 512)
    for metric in README:
        score = _network("score", metric, "lpips-alexnet", ("torch",), size)
        yield replace(score, name=f"readme/{metric}/512x384x1", floor=None)
        spec = {"what": "first", "metric": metric, "size": size, "of": "score"}
        first = Request("ours", spec)
        yield Case(f"readme/{metric}/compile", {metric: first}, rounds=3)


def _losses() -> Iterator[Case]:
    """`perceptual_loss` and its gradient in one image; the peers' the same."""
    for metric, peers in LOSSES.items():
        for n, height, width in LOSS_SIZES:
            spec = {"what": "loss", "metric": metric, "size": (n, height, width)}
            sides: dict[str, Request | Program] = {metric: Request("ours", spec)}
            for peer in peers:
                sides[f"torch {peer}"] = Request("peer", {**spec, "metric": peer})
            yield Case(f"loss/{metric}/{width}x{height}x{n}", sides)
            kept = {**spec, "kept": True}
            sides = {
                "features kept": Request("ours", kept),
                "images": Request("ours", spec),
            }
            yield Case(f"loss/{metric}, features/{width}x{height}x{n}", sides)


def _backbones() -> Iterator[Case]:
    size = (1, 256, 256)
    for network, packages in (
        ("alexnet", ("torch", "torch.compile", "onnxruntime")),
        ("vgg16", ("torch", "torch.compile", "onnxruntime")),
    ):
        spec = {"what": "backbone", "metric": f"lpips-{network}", "size": size}
        sides: dict[str, Request | Program] = {network: Request("ours", spec)}
        for package in packages:
            more = {"metric": network, "library": package}
            sides[package] = Request("peer", {**spec, **more})
        if network == "vgg16":
            sides["XLA's convolutions"] = Request("ours", {**spec, "winograd": False})
        floor = (2, {**spec, "what": "count"})
        yield Case(f"backbone/{network}/256x256x1", sides, alike=True, floor=floor)


def _sets() -> Iterator[Case]:
    spec = {"what": "set", "size": (24, 384, 512)}
    peer = {**spec, "metric": "lpips-alexnet"}
    for metric in ("spips-lite", "spips-alexnet"):
        sides: dict[str, Request | Program] = {
            metric: Request("ours", {**spec, "metric": metric}),
            "torch lpips-alexnet": Request("peer", {**peer, "kept": False}),
            "torch, features kept": Request("peer", {**peer, "kept": True}),
        }
        yield Case(f"set/{metric}/512x384x24", sides)


def _processes(scratch: Path, peers: str) -> Iterator[Case]:
    """Whole processes, start-up included."""
    home, script = str(scratch / "home"), str(worker.HERE / "{}.py")
    folders = (str(scratch / "references"), str(scratch / "distorted"))
    lpips = Program((peers, script.format("peer"), "folder", *folders))
    spips = (sys.executable, "-m", "spips_jax", "score", *folders, "--json")
    for state, kept in (("cold", ""), ("warm", home)):
        sides: dict[str, Request | Program] = {
            "spips-lite": Program(spips, home=kept),
            "torch lpips-alexnet": lpips,
        }
        yield Case(f"folder/40 pairs in 40 sizes/{state}", sides, rounds=5)
    ours = (sys.executable, script.format("ours"), "memory", "spips-lite", "256", "256")
    theirs = (peers, script.format("peer"), "memory", "lpips-alexnet", "256", "256")
    for state, kept in (("cold", ""), ("warm", home)):
        sides = {
            "spips-lite": Program(ours, home=kept),
            "import jax, flax.linen": Program(
                (sys.executable, "-c", "import jax, flax.linen")
            ),
            "torch lpips-alexnet": Program(theirs),
        }
        yield Case(f"first score/256x256/{state}", sides, rounds=7)


def _compilation() -> Iterator[Case]:
    size = (1, 256, 256)
    for metric in SPIPS:
        for of in ("score", "gradient"):
            spec = {"metric": metric, "size": size, "of": of}
            sides: dict[str, Request | Program] = {
                "compile": Request("ours", {**spec, "what": "compile"}),
                "lower": Request("ours", {**spec, "what": "lower"}),
            }
            if of == "score":
                peer = {"what": "compile", "metric": SPIPS[metric], "size": size}
                sides[f"torch.compile {SPIPS[metric]}"] = Request("peer", peer)
            yield Case(f"compile/{metric}/{of} 256x256", sides, rounds=5)


def _memory(scratch: Path, peers: str, *, large: bool) -> Iterator[Case]:
    for metric, peer in SPIPS.items():
        sizes = [("768", "512"), ("4000", "3000")]
        if large and metric != "spips-vgg16":  # one activation takes 28 GB
            sizes.append(("12000", "9000"))
        for width, height in sizes:
            words = ("memory", metric, height, width)
            ours = (sys.executable, str(worker.HERE / "ours.py"), *words)
            words = ("memory", peer, height, width)
            theirs = (peers, str(worker.HERE / "peer.py"), *words)
            sides: dict[str, Request | Program] = {
                metric: Program(ours, unit="MiB"),
                f"torch {peer}": Program(theirs, unit="MiB"),
            }
            yield Case(f"memory/{metric}/{width}x{height}", sides, rounds=1)


def _training(scratch: Path) -> Iterator[Case]:
    for case in ("alexnet/pooled", "alexnet/frozen"):
        sides: dict[str, Request | Program] = {}
        for devices in (1, 2, 4, 8):
            words = ("--case", case, "--devices", str(devices), "--seconds", "3")
            sides[f"{devices} device{'s' * (devices > 1)}"] = Program(
                (sys.executable, str(worker.HERE / "training.py"), *words),
                home=str(scratch / "home"),
                rate="steps_per_second",
            )
        yield Case(f"training/{case}", sides, rounds=3)


def make_folders(scratch: Path, count: int = 40) -> None:
    """Writes pairs of PNG files in as many sizes, sides of 300 to 1200 pixels."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("references", "distorted"):
        (scratch / name).mkdir()
    for number in range(count):
        width, height = (int(side) for side in rng.integers(300, 1201, 2))
        coarse = rng.integers(0, 256, (12, 16, 3), np.uint8)
        reference = Image.fromarray(coarse).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        noisy = np.asarray(reference) + rng.normal(0, 8, (height, width, 3))
        distorted = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        file = f"{number:02}.png"
        reference.save(scratch / "references" / file)
        distorted.save(scratch / "distorted" / file)


def processor() -> str:
    """The CPU's name and the number of cores that this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0))
    return f"{names[0] if names else 'unknown'}, {cores} cores"
