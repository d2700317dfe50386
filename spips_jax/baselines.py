"""The metrics that SPIPS is compared with; `spips_jax.load(name)` loads them.

| name | published as | range | better |
|---|---|---|---|
| lpips-alexnet, lpips-vgg16, lpips-squeezenet | LPIPS v0.1 | 0 and up | lower |
| dists | DISTS | 0 to about 1 | lower |
| psnr | PSNR of RGB, dB | up to 100 | higher |
| ssim | SSIM, mean of R, G, B | -1 to 1 | higher |
| ms-ssim | MS-SSIM, mean of R, G, B | 0 to 1 | higher |
| vif | VIF in the pixel domain, of luma | 0 to about 1 | higher |
| fsim, fsimc | FSIM of luma, FSIMc with chroma | 0 to 1 | higher |
| vsi | VSI | 0 to 1 | higher |
| gmsd | GMSD, of luma | 0 to 0.5 | lower |
| mdsi | MDSI | 0 to about 1 | lower |
| haarpsi | HaarPSI with chroma | 0 to 1 | higher |

`Metric.higher_is_better` has the direction for programs. All that the package knows of
a baseline is its record in `BASELINES`: to add one, write its module and its record
here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from spips_jax import classical
from spips_jax.backbones import BACKBONES, Published
from spips_jax.boxes import Canvas, through
from spips_jax.classical.sheets import METRICS
from spips_jax.spips import Comparison, Features, extract_taps, place_taps
from spips_jax.streams import FeatureStream, resize, squared_difference


class Lpips(nn.Module):
    """LPIPS: Zhang et al., "The unreasonable effectiveness of deep features as a
    perceptual metric", arXiv 1801.03924, eq. 1; linear heads of version 0.1.
    """

    backbone: nn.Module

    higher_is_better: ClassVar[bool] = False
    on_canvas: ClassVar[bool] = True
    canvas_needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def min_size(self) -> int:
        """Smallest height and width of images, in pixels."""
        return self.backbone.min_size

    def setup(self) -> None:
        self.stream = FeatureStream(taps=tuple(self.backbone.taps))

    def extract(self, images: jax.Array) -> Features:
        taps = extract_taps(self.backbone, images)
        return Features(image=images, taps=taps)

    def score(self, reference: Features, distorted: Features) -> jax.Array:
        return _total_mean(self._maps(reference, distorted))

    def compare(self, reference: Features, distorted: Features) -> Comparison:
        maps = self._maps(reference, distorted)
        score = _total_mean(maps)
        sized = {
            tap: resize(d, *reference.image.shape[-3:-1]) for tap, d in maps.items()
        }
        fused = sum(sized.values(), start=jnp.float32(0))
        return Comparison(score=score, streams={}, maps={**sized, "fused": fused})

    def _maps(self, reference: Features, distorted: Features) -> dict[str, jax.Array]:
        squares = {
            tap: squared_difference(x, distorted.taps[tap])
            for tap, x in reference.taps.items()
        }
        return self.stream(squares)

    def measure(self, canvas: Canvas) -> dict[str, Any]:
        sums = {}
        for tap, (x, y) in place_taps(self.backbone, canvas).items():
            squares = squared_difference(x.array[0], y.array[0])
            sums[tap] = {
                "squares": x.boxes.channel_sums(squares),
                "count": x.boxes.count(),
            }
        return sums

    def score_measured(self, sums: Mapping[str, Any]) -> jax.Array:
        means = {
            tap: one["squares"] / one["count"][..., None] for tap, one in sums.items()
        }
        return sum(self.stream(means).values(), start=jnp.float32(0))


def _total_mean(maps: Mapping[str, jax.Array]) -> jax.Array:
    return sum((d.mean((-2, -1)) for d in maps.values()), start=jnp.float32(0))


def l2_pool(x: Any) -> Any:
    """DISTS's pooling, stride 2: root of the squares under a 3x3 Hann window."""
    return through(_l2_pool, x, stride=2, length=lambda n: (n + 1) // 2)


def _l2_pool(x: jax.Array) -> jax.Array:
    x = jnp.square(x.astype(jnp.float32))
    for axis in (1, 2):
        widths = [(0, 0)] * x.ndim
        widths[axis] = (1, 1)
        x = jnp.pad(x, widths)
        end = x.shape[axis]
        left, centre, right = (
            jax.lax.slice_in_dim(x, k, end - 2 + k, stride=2, axis=axis)
            for k in range(3)
        )
        x = 0.25 * left + 0.5 * centre + 0.25 * right
    return jnp.sqrt(x + 1e-12)


class Dists(nn.Module):
    """DISTS: Ding et al., "Image quality assessment: unifying structure and texture
    similarity", arXiv 2004.07728, eq. 5 to 7, on VGG16 with L2 pooling.

    Images are compared at their own size; the authors' scripts scale the shorter side
    to 256 pixels first.
    """

    backbone: nn.Module

    higher_is_better: ClassVar[bool] = False
    on_canvas: ClassVar[bool] = True
    canvas_needs: ClassVar[frozenset[str]] = frozenset()
    C1: ClassVar[float] = 1e-6
    C2: ClassVar[float] = 1e-6

    @property
    def min_size(self) -> int:
        """Smallest height and width of images, in pixels."""
        return self.backbone.min_size

    def extract(self, images: jax.Array) -> Features:
        taps = extract_taps(self.backbone, images)
        taps = {tap: x.astype(jnp.float32) for tap, x in taps.items()}
        return Features(image=images, taps={"input": images, **taps})

    def compare(self, reference: Features, distorted: Features) -> Comparison:
        moments = {}
        for tap, x in reference.taps.items():
            y = distorted.taps[tap]
            mean_x, mean_y = (one.mean((-3, -2), keepdims=True) for one in (x, y))
            x, y = x - mean_x, y - mean_y
            moments[tap] = (
                mean_x[..., 0, 0, :],
                mean_y[..., 0, 0, :],
                jnp.square(x).mean((-3, -2)) + jnp.square(y).mean((-3, -2)),
                (x * y).mean((-3, -2)),
            )
        return Comparison(score=self._score(moments), streams={}, maps={})

    @nn.compact
    def _score(self, moments: Mapping[str, tuple[jax.Array, ...]]) -> jax.Array:
        """From means of x and y, sum of the variances, and covariance, `(..., C)`."""
        similarity = total = jnp.float32(0)
        for tap, (mean_x, mean_y, variances, covariance) in moments.items():
            shape = (mean_x.shape[-1],)
            initial = nn.initializers.constant(0.1)
            alpha = self.param(f"alpha_{tap}", initial, shape, jnp.float32)
            beta = self.param(f"beta_{tap}", initial, shape, jnp.float32)
            luminance = (2 * mean_x * mean_y + self.C1) / (
                mean_x**2 + mean_y**2 + self.C1
            )
            structure = (2 * covariance + self.C2) / (variances + self.C2)
            lead = (1,) * (luminance.ndim - 1)
            weighted = alpha.reshape(*lead, *shape) * luminance
            weighted = weighted + beta.reshape(*lead, *shape) * structure
            similarity = similarity + weighted.sum(-1)
            total = total + alpha.sum() + beta.sum()
        return 1.0 - similarity / total

    def measure(self, canvas: Canvas) -> dict[str, Any]:
        x, y = canvas.images()
        sums = {"input": canvas.boxes.moments(x, y)}
        for tap, pair in place_taps(self.backbone, canvas).items():
            x, y = (one.array[0].astype(jnp.float32) for one in pair)
            sums[tap] = pair[0].boxes.moments(x, y)
        return sums

    def score_measured(self, sums: Mapping[str, Any]) -> jax.Array:
        moments = {}
        for tap, one in sums.items():
            count = one.count[..., None]
            variances = (one.xx + one.yy) / count
            covariance = (one.xx + one.yy - one.dd) / (2 * count)
            moments[tap] = (one.x, one.y, variances, covariance)
        return self._score(moments)


class Classical(nn.Module):
    """A metric of `spips_jax.classical`; it has no weights.

    Attributes:
      formula: maps two images `(..., H, W, 3)` in [0, 1] to `(...)`.
      quality_map: the name of its map in `spips_jax.classical.MAPS`; "" for none.
      min_size: smallest height and width of images, in pixels.
      higher_is_better: the metric's direction.
    """

    formula: Callable[[jax.Array, jax.Array], jax.Array]
    quality_map: str
    min_size: int
    higher_is_better: bool = True

    def extract(self, images: jax.Array) -> Features:
        return Features(image=images, taps={})

    def score(self, reference: Features, distorted: Features) -> jax.Array:
        return self.formula(reference.image, distorted.image)

    def compare(self, reference: Features, distorted: Features) -> Comparison:
        images = (reference.image, distorted.image)
        names = (self.quality_map,) if self.quality_map else ()
        return Comparison(
            score=self.score(reference, distorted),
            streams={},
            maps=classical.quality_maps(*images, names=names),
        )

    @property
    def on_canvas(self) -> bool:
        """Whether there is `measure`: not for FSIM, FSIMc, VSI, VIF and MDSI."""
        return self.formula.__name__ in METRICS

    @property
    def canvas_needs(self) -> frozenset[str]:
        """Which parts of a canvas beside the images `measure` looks at."""
        return METRICS[self.formula.__name__].needs

    def measure(self, canvas: Canvas) -> dict[str, Any]:
        sums = METRICS[self.formula.__name__].sums(canvas)
        return {"sums": sums, "count": canvas.boxes.count()}

    def score_measured(self, sums: Mapping[str, Any]) -> jax.Array:
        return METRICS[self.formula.__name__].mean(sums["sums"], sums["count"])


@dataclass(frozen=True, kw_only=True, eq=False)
class Head:
    """What a baseline has learned beside its backbone, in a file of its own.

    Attributes:
      published: where its tensors are published, and their names in our file.
      shapes: of the tensors of our file, from the number of channels of each tap.
      params: the module's parameters beside the backbone's, from those in the file.
      non_negative: whether no value may be below 0.
      learned_from: the sets of opinions that it was trained on, by their names here,
        each with the splits; () for all of them.
    """

    published: Published
    shapes: Callable[[dict[str, int]], dict[str, tuple[int, ...]]]
    params: Callable[[dict[str, Any]], dict[str, Any]]
    non_negative: bool = False
    learned_from: tuple[tuple[str, tuple[str, ...]], ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Baseline:
    """A baseline: all that the package knows of it.

    The module has its direction, `higher_is_better`, and its least size, `min_size`.

    Attributes:
      module: makes it: takes `backbone` if it stands on one.
      backbone: a key of `BACKBONES`; "" for none.
      options: attributes of the backbone's module beside those of its record.
      head: what it has learned; None for nothing.
      has_maps: whether `explain` gives maps.
    """

    module: Callable[..., nn.Module]
    backbone: str = ""
    options: tuple[tuple[str, Any], ...] = ()
    head: Head | None = None
    has_maps: bool = True


def _lpips(backbone: str, file: str, sha256: str) -> Baseline:
    record = BACKBONES[backbone]
    taps = (*record.perceptual, *record.semantic)
    published = Published(
        origin=f"lpips/weights/v0.1/{file} of"
        " https://github.com/richzhang/PerceptualSimilarity (also in the PyPI package"
        " lpips)",
        url="https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/"
        f"lpips/weights/v0.1/{file}",
        sha256=sha256,
        tensors={
            f"lin{k}.model.1.weight": (f"{tap}.weight",) for k, tap in enumerate(taps)
        },
    )
    return Baseline(
        module=Lpips,
        backbone=backbone,
        head=Head(
            published=published,
            shapes=lambda channels: {
                f"{tap}.weight": (count,) for tap, count in channels.items()
            },
            params=lambda loaded: {
                "stream": {tap: one["weight"] for tap, one in loaded.items()}
            },
            non_negative=True,
            # Zhang et al., section 4: the training sets of all three distortions.
            learned_from=(("bapps", ("train_traditional", "train_cnn", "train_mix")),),
        ),
    )


def _classical(
    measure: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    higher_is_better: bool = True,
) -> Baseline:
    """The record of a metric whose map has its name."""
    name = measure.__name__
    return Baseline(
        module=partial(
            Classical,
            formula=measure,
            quality_map=name,
            min_size=classical.MAPS[name].min_size,
            higher_is_better=higher_is_better,
        )
    )


_DISTS_VECTORS = ("alpha", "beta")
_DISTS_TAPS = ("input", *BACKBONES["vgg16"].perceptual, *BACKBONES["vgg16"].semantic)

BASELINES: dict[str, Baseline] = {
    "lpips-alexnet": _lpips(
        "alexnet",
        "alex.pth",
        "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    ),
    "lpips-vgg16": _lpips(
        "vgg16",
        "vgg.pth",
        "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    ),
    "lpips-squeezenet": _lpips(
        "squeezenet",
        "squeeze.pth",
        "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
    ),
    "dists": Baseline(
        module=Dists,
        backbone="vgg16",
        options=(("pool", l2_pool),),
        head=Head(
            published=Published(
                origin="DISTS_pytorch/weights.pt of https://github.com/dingkeyan93/DISTS"
                " (also in the PyPI package dists-pytorch)",
                url="https://raw.githubusercontent.com/dingkeyan93/DISTS/master/"
                "DISTS_pytorch/weights.pt",
                sha256="f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
                tensors={
                    vector: tuple(f"{vector}.{tap}" for tap in _DISTS_TAPS)
                    for vector in _DISTS_VECTORS
                },
            ),
            shapes=lambda channels: {
                f"{vector}.{tap}": (count,)
                for vector in _DISTS_VECTORS
                for tap, count in {"input": 3, **channels}.items()
            },
            params=lambda loaded: {
                f"{vector}_{tap}": value
                for vector, taps in loaded.items()
                for tap, value in taps.items()
            },
            learned_from=(("kadid10k", ()),),  # Ding et al., section 3.3
        ),
        has_maps=False,
    ),
    "psnr": _classical(classical.psnr),
    "ssim": _classical(classical.ssim),
    "ms-ssim": _classical(classical.ms_ssim),
    "vif": Baseline(
        module=partial(
            Classical,
            formula=classical.vif,
            quality_map="",
            min_size=classical.VIF_MIN_SIZE,
        ),
        has_maps=False,
    ),
    "fsim": _classical(classical.fsim),
    "fsimc": _classical(classical.fsimc),
    "vsi": _classical(classical.vsi),
    "gmsd": _classical(classical.gmsd, higher_is_better=False),
    "mdsi": _classical(classical.mdsi, higher_is_better=False),
    "haarpsi": _classical(classical.haarpsi),
}
