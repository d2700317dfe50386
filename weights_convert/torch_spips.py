"""SPIPS in PyTorch, for those who want the metric there, and for comparison.

It reads the same model files and is written from the equations (docs/method.md and the
papers that it names), not from `spips_jax`: where the two agree, both are right.

    from weights_convert.torch_spips import Spips

    metric = Spips.load("spips-lite")
    score = metric(reference, distorted)  # (N,) of (N, 3, H, W), RGB in [0, 1]
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from flax import traverse_util
from torch import Tensor, nn
from torch.nn import functional

from spips_jax import model_file, weights
from spips_jax.files import replacing
from spips_jax.loading import MODELS
from spips_jax.messages import one_of
from spips_jax.outputs import SOFTWARE
from spips_jax.weights import PUBLISHED, WeightsError
from weights_convert import torch_twin

LUMA = (0.299, 0.587, 0.114)
YIQ = (LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
POWERS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
FLAT = 1e-5
"""Derivatives up to this have no direction: their gradient is 0."""

MAPS = ("psnr", "ssim", "ms_ssim", "haarpsi", "gmsd")
"""The classical maps that there are here: those of the models in the package."""


class Spips(nn.Module):
    """SPIPS of arXiv 2504.17234 as `spips_jax.spips.Spips` has it.

    Its tensors are buffers: `to(device)` and `double()` move all of it, and nothing is
    trained. Gradients go into both images.
    """

    def __init__(
        self, network: str, params: Mapping[str, Any], options: Mapping[str, Any]
    ) -> None:
        """Takes a model's parts; `load` reads them from a file.

        Args:
          network: the backbone, one of `spips_jax.backbones.BACKBONES`.
          params: the parameters by path, as `{"head.kernel": (20, 32), ...}`.
          options: `taps` by stream and the attributes of `spips_jax.spips.Spips`.

        Raises:
          WeightsError: the model has a classical map that is not one of `MAPS`.
        """
        super().__init__()
        self.network = network
        self.taps: dict[str, tuple[str, ...]] = dict(options["taps"])
        self.streams: tuple[str, ...] = tuple(options["streams"])
        self.statistics: tuple[str, ...] = tuple(options["statistics"])
        self.classical: tuple[str, ...] = tuple(options["classical"])
        self.monotone: bool = options["monotone"]
        self.epsilon: float = options["moment_epsilon"]
        for name in self.classical:
            if name not in MAPS:
                raise WeightsError(one_of("classical map", name, MAPS))
        for path, value in params.items():
            tensor = torch.from_numpy(np.array(value, np.float32))
            if tensor.ndim == 4:  # HWIO to OIHW
                tensor = tensor.permute(3, 2, 0, 1).contiguous()
            self.register_buffer(path.replace(".", "__"), tensor)

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str],
        *,
        weights: str | os.PathLike[str] | None = None,
    ) -> Spips:
        """Reads a model.

        Args:
          model: the name of a trained one of the package, or a file of one.
          weights: the backbone's file, for a model that leaves it out; by default the
            one in the cache folder.

        Raises:
          WeightsError: as `spips_jax.Metric.load`, or the model has a classical map
            that is not one of `MAPS`.
        """
        read = model_file.read_model(file_of(model), backbone=weights)
        return of_network(read.module, read.params)

    def forward(self, reference: Tensor, distorted: Tensor) -> Tensor:
        """Scores `(N,)`, 0 or more, larger is worse, of images `(N, 3, H, W)`.

        Images are RGB in [0, 1], in the dtype of the module; H and W from 32 on.
        """
        return self.stages(reference, distorted)["score"]

    def stages(self, reference: Tensor, distorted: Tensor) -> dict[str, Tensor]:
        """All that a score is made of, in the order in which it is computed.

        Names, units and axes are those of `weights_convert.stages.of_jax`, but that
        images and taps are `(N, C, H, W)`.
        """
        images = {"reference": reference, "distorted": distorted}
        found = {f"image {name}": image for name, image in images.items()}
        taps = {}
        for name, image in images.items():
            found[f"normalised {name}"] = self.normalize(image)
            taps[name] = self.backbone(found[f"normalised {name}"])
        for tap in taps["reference"]:
            for name in images:
                found[f"tap {tap} {name}"] = taps[name][tap]
        for tap, x in taps["reference"].items():
            pooled = self.differences(x, taps["distorted"][tap])
            for statistic in ("squares", "structure", "texture"):
                found[f"{statistic} {tap}"] = pooled[statistic]
        for name in self.classical:
            found[f"map {name}"] = self.error(name, reference, distorted)
        for name in self.classical:
            error = found[f"map {name}"].mean((-2, -1))
            found[f"classical {name}"] = quality(name, error)
        found["facts"] = facts(reference, distorted)
        found["inputs"] = torch.stack(list(self.inputs(found)), -1)
        found["head"] = self.head(found["inputs"])
        found["gain"] = self.gain(found["facts"])
        same = (reference == distorted).flatten(1).all(1)
        score = found["gain"] * found["head"]
        found["score"] = torch.where(same, torch.zeros_like(score), score)
        return found

    def __getitem__(self, path: str) -> Tensor:
        return self.get_buffer(path.replace(".", "__"))

    def normalize(self, images: Tensor) -> Tensor:
        """ImageNet's normalisation, as torchvision's networks had it."""
        mean, deviation = (
            images.new_tensor(x)[:, None, None] for x in (MEAN, DEVIATION)
        )
        return (images - mean) / deviation

    def backbone(self, images: Tensor) -> dict[str, Tensor]:
        """The taps `(N, C, h, w)` of normalised images."""
        wanted = [tap for taps in self.taps.values() for tap in taps]
        if self.network == "lite":
            found = lite(images, self.convolve)
        else:
            found = torch_twin.taps(self.network, images, self._convolve_numbered)
        return {tap: found[tap] for tap in wanted}

    def convolve(self, x: Tensor, layer: str, **options: int) -> Tensor:
        """A layer of the backbone, by our name, and its ReLU."""
        kernel, bias = (self[f"backbone.{layer}.{part}"] for part in ("kernel", "bias"))
        return functional.relu(functional.conv2d(x, kernel, bias, **options))

    def _convolve_numbered(self, x: Tensor, number: str, **options: int) -> Tensor:
        """A layer of the backbone by torchvision's number."""
        (name,) = PUBLISHED[self.network].tensors[f"features.{number}.weight"]
        return self.convolve(x, name.removesuffix(".kernel"), **options)

    def differences(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The statistics `(N, C)` of a tap: Zhang 2018, eq. 1; Ding 2020, eq. 5, 6."""
        unit = [t / (t.square().sum(1, keepdim=True) + 1e-10).sqrt() for t in (x, y)]
        mean_x, mean_y = x.mean((2, 3)), y.mean((2, 3))
        apart = (x - mean_x[..., None, None]) - (y - mean_y[..., None, None])
        variances = x.var((2, 3), correction=0) + y.var((2, 3), correction=0)
        squares = mean_x.square() + mean_y.square() + self.epsilon
        return {
            "squares": (unit[0] - unit[1]).square().mean((2, 3)),
            "structure": apart.square().mean((2, 3)) / (variances + self.epsilon) / 2,
            "texture": (mean_x - mean_y).square() / squares,
        }

    def error(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """What a classical map averages over an image, `(N, H, W)`."""
        if name == "psnr":
            return (x - y).square().mean(1)
        if name == "ssim":
            luminance, structure = ssim_terms(x, y)
            return ((1 - (luminance * structure).mean(1)) / 2).clamp(min=0)
        return {"ms_ssim": ms_ssim_error, "gmsd": gmsd_error, "haarpsi": haarpsi_error}[
            name
        ](x, y)

    def inputs(self, found: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """The head's inputs `(N,)`, in order."""
        for stream in self.streams:
            if stream == "classical":
                yield from (found[f"classical {name}"] for name in self.classical)
                continue
            for tap in self.taps[stream]:
                for statistic in self.statistics:
                    name = tap if statistic == "squares" else f"{tap}_{statistic}"
                    weight = self[f"{stream}.{name}"].clamp(min=0)
                    value = found[f"{statistic} {tap}"] @ weight
                    yield value * len(weight) / 2 if statistic == "squares" else value

    def head(self, inputs: Tensor) -> Tensor:
        """`(N, n)` to `(N,)`."""
        bias, softplus = self["head.bias"], functional.softplus
        if not self.monotone:
            hidden = torch.tanh(inputs @ self["head.free_kernel"] + bias)
            linear = inputs @ self["head.free_linear"]
            output = self["head.free_output"]
            return (linear + (hidden - torch.tanh(bias)) @ output).abs()
        linear, kernel, output = (
            self[f"head.{name}"].clamp(min=0) for name in ("linear", "kernel", "output")
        )
        sign = torch.ones_like(bias)
        sign[1::2] = -1
        hidden = sign * (softplus(sign * (inputs @ kernel) + bias) - softplus(bias))
        return (inputs @ linear + hidden @ output).clamp(min=0)

    def gain(self, facts: Tensor) -> Tensor:
        """`(N, 3)` to a factor `(N,)`."""
        large = facts**3 / (facts.square() + 0.05**2)
        total = torch.zeros_like(facts[:, 0])
        for group, chosen in (("luminance", [0]), ("contrast_saturation", [1, 2])):
            kernel, bias, output = (
                self[f"gain.{group}.{name}"] for name in ("kernel", "bias", "output")
            )
            hidden = torch.tanh(large[:, chosen] @ kernel + bias) - torch.tanh(bias)
            total = total + hidden @ output
        return torch.exp(torch.tanh(2 * total) / 2)


def file_of(model: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """The file of a trained model of the package; a file's path as it is.

    Raises:
      WeightsError: an untrained model of the package, which has no file.
    """
    if str(model) not in MODELS:
        return model
    file = weights.embedded(str(model))
    if file is None:
        raise WeightsError(f"{model} is untrained: it has no file in the package")
    return file


def of_network(module: Any, params: Mapping[str, Any]) -> Spips:
    """The twin of a `spips_jax.spips.Spips` with these parameters."""
    options = {name: getattr(module, name) for name in model_file.OPTIONS}
    streams = ("perceptual", "semantic")
    options["taps"] = {name: getattr(module.backbone, name) for name in streams}
    flat = traverse_util.flatten_dict(dict(params), sep=".")
    return Spips(module.backbone.network, flat, options)


def lite(x: Tensor, convolve: Any) -> dict[str, Tensor]:
    """The taps of spips-lite's own network (docs/models.md)."""
    pool = partial(functional.max_pool2d, kernel_size=3, stride=2)
    taps = {"relu1": convolve(x, "conv1", stride=4)}
    x = convolve(pool(taps["relu1"]), "conv2_1", padding=1)
    taps["relu2"] = convolve(x, "conv2_2", padding=1)
    taps["relu3"] = convolve(pool(taps["relu2"]), "conv3", padding=1)
    taps["relu4"] = convolve(taps["relu3"], "conv4", padding=1)
    taps["relu5"] = convolve(taps["relu4"], "conv5", padding=1)
    return taps


def mix(images: Tensor, weights: Sequence[float]) -> Tensor:
    """Weighted sum of the channels, `(N, 3, H, W)` to `(N, H, W)`."""
    return torch.einsum("nchw,c->nhw", images, images.new_tensor(weights))


def facts(x: Tensor, y: Tensor) -> Tensor:
    """Changes of light, contrast and colour `(N, 3)`: docs/method.md's equations."""
    floor = 0.02**2
    lumas = [mix(image, LUMA) for image in (x, y)]
    means = [luma.mean((1, 2)) for luma in lumas]
    apart = [a - b[:, None, None] for a, b in zip(lumas, means, strict=True)]
    shared = (apart[0] * apart[1]).mean((1, 2)).clamp(min=0)
    chroma = [
        ((image[:, 0] - luma).square() + (image[:, 2] - luma).square()).mean((1, 2))
        for image, luma in zip((x, y), lumas, strict=True)
    ]
    contrast = torch.log((shared + floor) / (apart[0].square().mean((1, 2)) + floor))
    saturation = torch.log((chroma[1] + floor) / (chroma[0] + floor)) / 2
    return torch.stack([4 * (means[1] - means[0]), contrast, saturation], -1)


def quality(name: str, error: Tensor) -> Tensor:
    """From a classical map's mean error to [0, 1]."""
    if name == "psnr":
        return torch.log1p(error / 1e-6) / math.log1p(1e6)
    if name != "haarpsi":
        return error
    alpha = 4.2
    top = 1 / (1 + math.exp(-alpha))
    lacking = error.clamp(max=1) * (top - 0.5)
    # The inverse of the logistic function, as its change from full similarity.
    change = torch.log1p(-lacking / top) - torch.log1p(lacking / (1 - top))
    return 1 - (1 + change / alpha).square()


def symmetric(x: Tensor, border: int) -> Tensor:
    """A border that mirrors the image, edge pixels included."""
    for axis in (-2, -1):
        n = x.shape[axis]
        order = torch.arange(-border, n + border, device=x.device)
        order = torch.where(order < 0, -1 - order, order)
        order = torch.where(order >= n, 2 * n - 1 - order, order)
        x = x.index_select(axis, order)
    return x


def blur(x: Tensor) -> Tensor:
    """SSIM's window: Gaussian, 11 pixels, sigma 1.5, edges mirrored."""
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    window = torch.exp(-0.5 * (offsets / 1.5) ** 2)
    window = (window / window.sum()).to(x.dtype).to(x.device)
    n, channels, height, width = x.shape
    planes = symmetric(x, 5).reshape(n * channels, 1, height + 10, width + 10)
    planes = functional.conv2d(planes, window[None, None, :, None])
    planes = functional.conv2d(planes, window[None, None, None, :])
    return planes.reshape(n, channels, height, width)


def ssim_terms(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast times structure: Wang 2004, eq. 6, 9 and 10."""
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = blur(x), blur(y)
    var_x = blur(x * x) - mean_x**2
    var_y = blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (var_x + var_y + c2)


def ms_ssim_error(x: Tensor, y: Tensor) -> Tensor:
    """1 - the product of the scales at each pixel: Wang 2003, eq. 7."""
    terms: list[Tensor] = []
    while True:
        luminance, structure = ssim_terms(x, y)
        half = [(side + 1) // 2 for side in x.shape[-2:]]
        if len(terms) == 4 or min(half) < 11:
            terms.append(luminance * structure)
            break
        terms.append(structure)
        odd = (0, x.shape[-1] % 2, 0, x.shape[-2] % 2)
        x, y = (
            functional.avg_pool2d(functional.pad(z, odd, mode="replicate"), 2)
            for z in (x, y)
        )
    used = POWERS[: len(terms)]
    total = None
    for term, power in zip(reversed(terms), reversed(used), strict=True):
        log = term.clamp(1e-4, 1).log() * (power / sum(used))
        if total is not None:
            total = doubled(total)[..., : log.shape[-2], : log.shape[-1]]
            log = log + total
        total = log
    assert total is not None
    return -torch.expm1(total).mean(1)


def doubled(x: Tensor) -> Tensor:
    """Bilinear interpolation to twice the size."""
    return functional.interpolate(
        x, scale_factor=2, mode="bilinear", align_corners=False
    )


def halved(planes: Tensor) -> Tensor:
    """Means of 2x2 pixels; what an odd edge lacks is 0."""
    height, width = planes.shape[-2:]
    padded = functional.pad(planes, (0, width % 2, 0, height % 2))
    return functional.avg_pool2d(padded[:, None], 2)[:, 0]


def repeated(planes: Tensor, like: Tensor) -> Tensor:
    """Each value fills 2x2 pixels."""
    twice = planes.repeat_interleave(2, -2).repeat_interleave(2, -1)
    return twice[..., : like.shape[-2], : like.shape[-1]]


def similarity(x: Tensor, y: Tensor, constant: float) -> Tensor:
    return (2 * x * y + constant) / (x.square() + y.square() + constant)


def gmsd_error(x: Tensor, y: Tensor) -> Tensor:
    """1 - GMS: Xue 2014, eq. 4, Prewitt's operator, zeros outside."""
    operator = x.new_tensor([[1, 0, -1]] * 3) / 3
    kernels = torch.stack([operator, operator.T])[:, None]
    sizes = []
    for image in (x, y):
        planes = halved(mix(image, LUMA))[:, None]
        squares = functional.conv2d(planes, kernels, padding=1).square().sum(1)
        rises = squares > FLAT**2
        root = torch.where(rises, squares, torch.ones_like(squares)).sqrt()
        sizes.append(torch.where(rises, root, squares.detach().sqrt()))
    return repeated(1 - similarity(sizes[0], sizes[1], 170 / 255**2), x)


def haarpsi_error(x: Tensor, y: Tensor) -> Tensor:
    """Each pixel's share of what HaarPSI lacks: Reisenhofer 2018, eq. 10 to 12."""
    constant, alpha = 30 / 255**2, 4.2
    top = 1 / (1 + math.exp(-alpha))
    luma, *chroma = ([halved(mix(image, one)) for image in (x, y)] for one in YIQ)
    kinds = []
    for turn in (False, True):
        scales = [[haar(image, scale, turn) for image in luma] for scale in (1, 2, 3)]
        fine, middle = (similarity(a, b, constant) for a, b in scales[:2])
        kinds.append(((fine + middle) / 2, torch.maximum(*scales[2])))
    colours = [similarity(quads(a), quads(b), constant) for a, b in chroma]
    weight = (kinds[0][1] + kinds[1][1]) / 2
    kinds.append(((colours[0] + colours[1]) / 2, weight))
    weighted = [w * (top - torch.sigmoid(alpha * s)) for s, w in kinds]
    lacking = torch.stack(weighted).sum(0)
    total = torch.stack([w for _, w in kinds]).sum(0).mean((1, 2), keepdim=True)
    share = lacking / torch.where(total > 0, total, torch.ones_like(total))
    return repeated(share.clamp(min=0) / (top - 0.5), x)


def rectified(x: Tensor) -> Tensor:
    """Absolute values, without a gradient where they are rounding."""
    size = x.abs()
    return torch.where(size > FLAT, size, size.detach())


def haar(planes: Tensor, scale: int, turn: bool) -> Tensor:
    """Magnitudes of Haar's coefficients, zeros outside, as MATLAB's "same"."""
    half = 2 ** (scale - 1)
    kernel = planes.new_ones(2 * half, 2 * half) / (2 * half)
    kernel[half:] *= -1
    kernel = kernel.T if turn else kernel
    padded = functional.pad(planes, (half - 1, half) * 2)
    return rectified(functional.conv2d(padded[:, None], kernel[None, None])[:, 0])


def quads(planes: Tensor) -> Tensor:
    """Magnitudes of the means of a pixel and its neighbours right and below."""
    padded = functional.pad(planes, (0, 1, 0, 1))
    return rectified(functional.avg_pool2d(padded[:, None], 2, stride=1)[:, 0])


def export(metric: Spips, path: str | os.PathLike[str], size: tuple[int, ...]) -> None:
    """Writes the metric for PyTorch alone, by `torch.export`.

    Args:
      metric: float32.
      path: the file, .pt2.
      size: height and width of the images that it will take; their number is free.

    Raises:
      OSError: the file cannot be written.
    """
    images = [torch.rand(2, 3, *size) for _ in range(2)]
    number = torch.export.Dim("number", min=1)
    program = torch.export.export(
        metric, tuple(images), dynamic_shapes=({0: number}, {0: number})
    )
    with replacing(path) as partial_file:
        # An empty file in the archive says who made it: it may be written again.
        torch.export.save(program, partial_file, extra_files={SOFTWARE: ""})
