"""The peers' side: a worker, or with other words a process measured as a whole.

    python benchmarks/peer.py memory NETWORK HEIGHT WIDTH    # one score; prints MiB
    python benchmarks/peer.py folder REFERENCES DISTORTED    # LPIPS-AlexNet of each

Imports no JAX, so that PyTorch's memory is measured alone, and packages other than
PyTorch only where they are asked for.
"""

from __future__ import annotations

import importlib.metadata
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import worker
from torch.nn import functional

Tensor = torch.Tensor
Network = Callable[[Tensor], list[Tensor]]

TAPS = {
    "vgg16": ("1_2", "2_2", "3_3", "4_3", "5_3"),
    "alexnet": ("1", "2", "3", "4", "5"),
}
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
DEVIATION = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
PACKAGES = ("torch", "torchvision", "piq", "pytorch-msssim", "onnxruntime")


def layers(network: str) -> list[tuple[str, dict[str, Any]]]:
    """(name of a convolution or "pool", its options), first to last."""
    table: list[tuple[str, dict[str, Any]]] = []
    channels = 3
    if network == "vgg16":
        for stage, depth in enumerate((2, 2, 3, 3, 3), start=1):
            if stage > 1:
                table.append(("pool", {"kernel_size": 2}))
            for layer in range(1, depth + 1):
                width = min(32 * 2**stage, 512)
                options = {"shape": (3, 3, channels, width), "padding": 1}
                table.append((f"{stage}_{layer}", options))
                channels = width
        return table
    rows = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1))
    for n, (width, size, stride, padding) in enumerate((*rows, rows[-1]), start=1):
        if n in (2, 3):
            table.append(("pool", {"kernel_size": 3, "stride": 2}))
        shape = (size, size, channels, width)
        table.append((f"{n}", {"shape": shape, "stride": stride, "padding": padding}))
        channels = width
    return table


def build(network: str) -> Network:
    """A function from normalised NCHW images to taps, in channels_last, frozen."""
    steps: list[tuple[str, Callable[[Tensor], Tensor]]] = []

    def pooling(**options: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: functional.max_pool2d(x, **options)

    def convolution(
        name: str, shape: tuple[int, ...], **options: Any
    ) -> Callable[[Tensor], Tensor]:
        weights = torch.from_numpy(worker.kernel(f"conv{name}", shape))
        weights = weights.permute(3, 2, 0, 1)
        weights = weights.contiguous(memory_format=torch.channels_last)
        bias = torch.full((shape[-1],), worker.BIAS)
        return lambda x: torch.relu(functional.conv2d(x, weights, bias, **options))

    for name, options in layers(network):
        step = pooling(**options) if name == "pool" else convolution(name, **options)
        steps.append((name, step))

    def run(x: Tensor) -> list[Tensor]:
        taps = []
        for name, step in steps:
            x = step(x)
            if name in TAPS[network]:
                taps.append(x)
        return taps

    return run


def features(network: Network, images: Tensor) -> list[Tensor]:
    """LPIPS's: activations as unit vectors."""
    taps = network((images - MEAN) / DEVIATION)
    return [x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10) for x in taps]


def distance(reference: list[Tensor], distorted: list[Tensor]) -> Tensor:
    """LPIPS's, `(N,)`, with heads of one weight."""
    total = torch.zeros(())
    for x, y in zip(reference, distorted, strict=True):
        head = torch.full((1, x.shape[1], 1, 1), worker.HEAD)
        difference = functional.conv2d((x - y).square(), head)
        total = total + difference.mean((1, 2, 3))
    return total


def lpips(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """LPIPS on the network that its name has."""
    network = build(name.removeprefix("lpips-"))
    return lambda x, y: distance(features(network, x), features(network, y))


def import_piq() -> Any:
    try:
        import piq  # type: ignore[import-not-found]
    except RuntimeError:
        # A torchvision of another build than PyTorch's lacks its compiled operators.
        # piq needs none; declared, torchvision can be imported without them.
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        import_piq.library = library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor a, Tensor b, float c) -> Tensor")
        import piq
    return piq


def dists() -> Any:
    """Makes DISTS of piq without its downloads: random VGG16, heads of one weight."""
    import_piq()
    import torchvision  # type: ignore[import-not-found]
    from piq import perceptual

    head = {
        name: torch.full((1, 1475, 1, 1), worker.HEAD) for name in ("alpha", "beta")
    }
    vgg16 = torchvision.models.vgg16(weights=None)
    with (
        mock.patch.object(torch.hub, "load_state_dict_from_url", return_value=head),
        mock.patch.object(perceptual, "vgg16", return_value=vgg16),
    ):
        return perceptual.DISTS(reduction="none")


def measure_of(name: str, library: str) -> Callable[[Tensor, Tensor], Tensor]:
    """A function of references and distorted images, NCHW in [0, 1], to scores."""
    if name.startswith("lpips"):
        return torch.compile(lpips(name)) if library == "torch.compile" else lpips(name)
    if library == "pytorch-msssim":
        import pytorch_msssim  # type: ignore[import-untyped]

        measure = {"ssim": pytorch_msssim.ssim, "ms-ssim": pytorch_msssim.ms_ssim}[name]
        return partial(measure, data_range=1.0, size_average=False)
    piq = import_piq()
    if name == "dists":
        model = dists()
        return lambda x, y: model(y, x)
    options = {"ssim": {"downsample": False}, "fsim": {"chromatic": False}}
    names = {"ms-ssim": "multi_scale_ssim", "fsimc": "fsim", "vif": "vif_p"}
    measure = getattr(piq, names.get(name, name))
    measure = partial(measure, reduction="none", **options.get(name, {}))
    return lambda x, y: measure(y, x)  # piq takes the distorted image first


def make(spec: worker.Spec) -> worker.Job:
    """What a request asks for, ready to run."""
    what, library = spec["what"], spec.get("library", "torch")
    if library == "torch.compile":
        torch._dynamo.reset()  # it compiles each function a few times only, then stops
    if what == "matmul":
        x = torch.full((spec["side"],) * 2, 0.5)
        return lambda: torch.mm(x, x)
    if what == "copy":
        x = torch.zeros(spec["bytes"] // 4)
        y = torch.empty_like(x)
        return lambda: y.copy_(x)
    name = spec["metric"]
    images = torch.from_numpy(worker.pairs(spec["size"])).permute(0, 1, 4, 2, 3)
    if what == "backbone":
        return backbone(name, (images.flatten(0, 1) - MEAN) / DEVIATION, library)
    if name.startswith("lpips"):  # NCHW in NHWC's order is channels_last
        reference, distorted = images
    else:  # faster for the others
        reference, distorted = images.contiguous()
    if what == "set":
        return partial(compare_set, name, reference[:1], distorted, spec["kept"])
    if what == "compile":
        return partial(compiled, name, reference, distorted)
    measure = measure_of(name, library)
    if what == "loss":
        leaf = distorted.clone().requires_grad_()

        def step() -> Tensor:
            value = measure(reference, leaf).mean()
            value.item()
            return torch.autograd.grad(value, leaf)[0]

        return step
    if what == "gradient":
        leaf = distorted.clone().requires_grad_()
        return lambda: torch.autograd.grad(measure(reference, leaf).sum(), leaf)[0]
    return torch.inference_mode()(lambda: measure(reference, distorted))


def backbone(name: str, images: Tensor, library: str) -> worker.Job:
    """All taps; returns the deepest."""
    network = build(name)
    if library != "onnxruntime":
        run = torch.compile(network) if library == "torch.compile" else network
        return torch.inference_mode()(lambda: run(images)[-1])
    import io

    import onnxruntime  # type: ignore[import-not-found]

    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return network(x)

    file = io.BytesIO()
    torch.onnx.export(Module(), (images,), file, dynamo=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = worker.THREADS
    session = onnxruntime.InferenceSession(
        file.getvalue(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: images.contiguous().numpy()}
    return lambda: session.run(None, feed)[-1]


def compare_set(
    name: str, reference: Tensor, distorted: Tensor, kept: bool
) -> np.floating:
    """One reference and many images; `kept`: with its features computed once."""
    network = build(name.removeprefix("lpips-"))
    with torch.inference_mode():
        first = features(network, reference)
        scores = []
        for image in distorted.split(1):
            if not kept:
                first = features(network, reference)
            scores.append(float(distance(first, features(network, image))))
    return np.mean(scores)


def compiled(name: str, reference: Tensor, distorted: Tensor) -> worker.Seconds:
    """Seconds of torch.compile and of the first score, in which it compiles."""
    torch._dynamo.reset()
    start = time.perf_counter()
    with torch.inference_mode():
        torch.compile(lpips(name))(reference, distorted)
    return worker.Seconds(time.perf_counter() - start)


def score_folder(references: str, distorted: str) -> None:
    """Prints a score a pair, read by Pillow one after the other."""
    from PIL import Image

    def read(path: Path) -> Tensor:
        pixels = np.array(Image.open(path).convert("RGB"))
        return torch.from_numpy(pixels)[None].permute(0, 3, 1, 2) / 255

    measure = lpips("lpips-alexnet")
    with torch.inference_mode():
        for path in sorted(Path(references).iterdir()):
            print(
                path.name, float(measure(read(path), read(Path(distorted, path.name))))
            )


def versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "missing"
    return found


if __name__ == "__main__":
    torch.set_num_threads(worker.THREADS)  # as many as JAX uses
    if sys.argv[1] == "serve":
        worker.serve(make, versions())
    elif sys.argv[1] == "folder":
        score_folder(*sys.argv[2:])
    else:
        height, width = map(int, sys.argv[3:])
        images = (
            torch.from_numpy(x)[None].permute(0, 3, 1, 2) / 255
            for x in worker.large_pair(height, width)
        )
        with torch.inference_mode():
            float(lpips(sys.argv[2])(*images))
        print(worker.peak_mib())
