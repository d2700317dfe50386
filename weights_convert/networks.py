"""Finds networks in a file of PyTorch tensors, and maps them to Flax tensors.

The names are in the records of `spips_jax.backbones` and `spips_jax.baselines`: for
backbones torchvision's (https://github.com/pytorch/vision/tree/main/torchvision/
models), for heads their authors'. Whatever is before all of a network's names is of
those who saved it: a wrapper's key, a module's name, "module." of DataParallel,
"_orig_mod." of torch.compile.

Packages of metrics save backbone and head together. Their slices keep torchvision's
numbers of layers: https://github.com/richzhang/PerceptualSimilarity/blob/master/lpips/
{lpips,pretrained_networks}.py, https://github.com/dingkeyan93/DISTS/blob/master/
DISTS_pytorch/DISTS_pt.py.
"""

from __future__ import annotations

import pathlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import traverse_util

from spips_jax.backbones import BACKBONES
from spips_jax.baselines import BASELINES
from spips_jax.images import IMAGENET_MEAN, IMAGENET_STD
from spips_jax.weights import PUBLISHED, WeightsError, expected_shapes
from weights_convert import reader

_FLOAT_DTYPES = ("float16", "bfloat16", "float32", "float64")

_SPELLINGS = (
    # LPIPS's backbone, in Torchmetrics as a list of slices.
    (r"(^|\.)(?:net\.)?(?:slice\d+|slices\.\d+)\.(?=\d+\.)", r"\1features."),
    # LPIPS lists its heads a second time; without dropout a convolution is the first.
    (r"(^|\.)lins?\.?(\d+)\.model\.[01]\.weight$", r"\1lin\2.model.1.weight"),
    # DISTS's backbone.
    (r"(^|\.)stage\d+\.(?=\d+\.(?:weight|bias)$)", r"\1features."),
)
"""Names in packages of metrics, and those of the records for the same."""

_HANN = (0.25, 0.5, 0.25)
_CONSTANTS: tuple[tuple[str, Any], ...] = (
    (r"scaling_layer\.shift", (-0.030, -0.088, -0.188)),
    (r"scaling_layer\.scale", (0.458, 0.448, 0.450)),
    (r"mean", IMAGENET_MEAN),
    (r"std", IMAGENET_STD),
    (r"stage[2-5]\.\d+\.filter", np.outer(_HANN, _HANN)),
)
"""Tensors that packages of metrics save and do not learn; our code has their values."""

_USUAL = {
    "state_dict", "model_state_dict", "model", "net", "network", "module", "_orig_mod",
    "backbone",
}  # fmt: skip
"""What is usually before the names of what was trained, not of an average of it."""


@dataclass(frozen=True)
class Source:
    """What a file has of a network, and of those that share its state dict.

    Attributes:
      path: the file.
      prefix: what is before the names of its tensors.
      networks: those that are whole there: the one asked for is the first.
      left_out: tensors of the file that are none of theirs: other modules, other
        copies, optimisers.
    """

    path: pathlib.Path
    prefix: str
    networks: tuple[str, ...]
    left_out: tuple[str, ...]
    _tensors: Mapping[str, tuple[reader.Tensor, ...]]

    def read(self, network: str) -> dict[str, np.ndarray]:
        """Reads the tensors of one of `networks`: float32, under PyTorch's names.

        Raises:
          WeightsError: a tensor is not of floats, not finite, saved twice with
            different values, or a linear head of LPIPS has negative ones.
        """
        found = {}
        for key in torch_shapes(network):
            first, *others = self._tensors[key]
            found[key] = _values(network, key, first)
            for other in others:
                if not np.array_equal(found[key], _values(network, key, other)):
                    raise WeightsError(
                        f"{self.path}: has two tensors that differ for {key}: give"
                        " only the one that you want"
                    )
        return found


def torch_shapes(network: str) -> dict[str, tuple[int, ...]]:
    """PyTorch tensor name -> its shape, convolution kernels in OIHW."""
    expected = expected_shapes(network)

    def shape(names: tuple[str, ...]) -> tuple[int, ...]:
        if network not in BACKBONES:
            return (1, sum(expected[name][0] for name in names), 1, 1)
        shape = expected[names[0]]
        return tuple(shape[axis] for axis in (3, 2, 0, 1)) if len(shape) == 4 else shape

    return {key: shape(names) for key, names in PUBLISHED[network].tensors.items()}


def open_source(network: str, path: pathlib.Path) -> Source:
    """Finds `network` in a file, and the networks that are saved with it.

    Only names and shapes are read, and the few constants of a metric's package.

    Raises:
      WeightsError: the file can't be read; a tensor is missing, of the wrong shape or,
        beside the network's, one of no known network (torchvision's classifier
        excepted, which is ignored); the network is there more than once.
    """
    found = reader.read_tensors(path)
    file = _File(path, found)
    places = [place for place in file.places(network) if file.has(network, place)]
    if not places:
        bare = _File(path, {_in_features(name): one for name, one in found.items()})
        places = [place for place in bare.places(network) if bare.has(network, place)]
        file = bare if places else file
    if not places:
        if layers := file.batch_norms():
            raise WeightsError(
                f"{path}: not {network}; it has {layers} layers of batch normalisation,"
                f" as torchvision's {network}_bn, which is another network with other"
                f" features: give weights of {network} itself"
            )
        nearest = next(iter(file.places(network)), "")
        problems = file.problems([network], nearest)
        raise WeightsError(
            f"{path}: not {network}; {'; '.join(problems)}{_hint(file, network)}"
        )
    place = _chosen(network, path, places)
    networks = [network, *(n for n in PUBLISHED if n != network and file.has(n, place))]
    if problems := file.problems(networks, place):
        raise WeightsError(f"{path}: not {network}; {'; '.join(problems)}")
    file.check_constants(place)
    return Source(
        path=path,
        prefix=place,
        networks=tuple(networks),
        left_out=file.elsewhere(place),
        _tensors=file.tensors(place),
    )


def _chosen(network: str, path: pathlib.Path, places: list[str]) -> str:
    """The place of a network that is there more than once, if one is the usual one."""
    if len(places) == 1:
        return places[0]
    usual = [place for place in places if _USUAL.issuperset(place.split(".")[:-1])]
    if len(usual) == 1:
        return usual[0]
    raise WeightsError(
        f"{path}: has {network} more than once, as {_some([repr(p) for p in places])}:"
        " save the one that you want in a file of its own"
    )


class _File:
    """The tensors of a file under the names of the records, place by place.

    A place is what is before names: "" or something that ends with a dot.
    """

    def __init__(self, path: pathlib.Path, found: Mapping[str, reader.Tensor]) -> None:
        self.path = path
        self._found = found
        self._names: dict[str, list[str]] = {}
        for name in found:
            self._names.setdefault(_spelled(name), []).append(name)

    def places(self, network: str) -> list[str]:
        """Where tensors of a network are, beginning with the place of most of them."""
        keys = torch_shapes(network)
        dots = max(key.count(".") for key in keys)
        places: Counter[str] = Counter()
        for name in self._names:
            parts = name.rsplit(".", dots + 1)
            for first in range(len(parts)):
                key = ".".join(parts[first:])
                if key in keys:
                    places[name.removesuffix(key)] += 1
        return [place for place, _ in places.most_common()]

    def has(self, network: str, place: str) -> bool:
        """Whether a network is whole at a place."""
        return all(
            self._shapes(place + key) == {shape}
            for key, shape in torch_shapes(network).items()
        )

    def batch_norms(self) -> int:
        """How many layers of batch normalisation there are."""
        return sum(name.endswith(".running_var") for name in self._names)

    def problems(self, networks: list[str], place: str) -> list[str]:
        """What rules out that networks are all there is at a place, in words."""
        needed = {k: s for one in networks for k, s in torch_shapes(one).items()}
        ignored = tuple(start for one in networks for start in PUBLISHED[one].ignored)
        missing, extra, misshapen = [], [], []
        for key, shape in needed.items():
            shapes = self._shapes(place + key)
            if not shapes:
                missing.append(f"{key} {shape}")
            for other in shapes - {shape}:
                misshapen.append(f"{key} has {other!s:.80} and needs {shape}")
        for name, spellings in self._names.items():
            key = name.removeprefix(place)
            known = key in needed or key.startswith(ignored)
            if name.startswith(place) and not known and _constant(key) is None:
                extra += [f"{n!r:.80} {self._found[n].shape!s:.80}" for n in spellings]
        named = {"missing": missing, "extra": extra, "of the wrong shape": misshapen}
        return [f"{kind}: {_some(items)}" for kind, items in named.items() if items]

    def check_constants(self, place: str) -> None:
        """Raises for a constant that has not the value that our code has."""
        for name, tensor in self._found.items():
            constant = _constant(name.removeprefix(place))
            if not name.startswith(place) or constant is None:
                continue
            # The number of channels that the filter is repeated for is at most 512.
            fits = len(tensor.shape) == 4 and np.prod(tensor.shape, dtype=object) < 1e4
            if not fits or not np.allclose(
                # Saved in float16, they are off by 5e-4 of themselves.
                np.asarray(tensor.read(), np.float64),
                constant,
                rtol=1e-3,
                atol=0,
            ):
                raise WeightsError(
                    f"{self.path}: {name!r:.80} has not the values of the published"
                    f" metric, {constant.ravel().tolist()}, which cannot be changed"
                )

    def elsewhere(self, place: str) -> tuple[str, ...]:
        """The names in the file of what is not at a place."""
        return tuple(
            name
            for spelled, names in self._names.items()
            if not spelled.startswith(place)
            for name in names
        )

    def tensors(self, place: str) -> dict[str, tuple[reader.Tensor, ...]]:
        """Every tensor at a place, as often as it was saved."""
        return {
            spelled.removeprefix(place): tuple(self._found[name] for name in names)
            for spelled, names in self._names.items()
            if spelled.startswith(place)
        }

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by the names in the file."""
        return {name: tensor.shape for name, tensor in self._found.items()}

    def _shapes(self, name: str) -> set[tuple[int, ...]]:
        return {self._found[one].shape for one in self._names.get(name, ())}


def _spelled(name: str) -> str:
    """A name as the records have it."""
    for pattern, ours in _SPELLINGS:
        name = re.sub(pattern, ours, name)
    return name


def _in_features(name: str) -> str:
    """The name of a layer that was saved from torchvision's `features` alone."""
    return re.sub(r"^((?:[^.]*[^.\d][^.]*\.)*)(?=\d+\.)", r"\1features.", name)


def _constant(key: str) -> np.ndarray | None:
    """The values of a constant, to compare with a tensor of four axes."""
    for pattern, values in _CONSTANTS:
        if re.fullmatch(pattern, key):
            values = np.asarray(values)
            return values if values.ndim == 2 else values.reshape(1, 3, 1, 1)
    return None


def _some(items: list[str]) -> str:
    more = f" and {len(items) - 3} more" if len(items) > 3 else ""
    return f"{', '.join(items[:3])}{more}"


def _hint(file: _File, asked: str) -> str:
    for network in PUBLISHED:
        if network != asked and any(
            file.has(network, place) for place in file.places(network)
        ):
            command = f"spips convert {network} --source {file.path}"
            return f"; it looks like {network}: run `{command}`"
        if file.shapes() == expected_shapes(network):
            return f"; it is {network}, converted already"
    return ""


def _values(network: str, key: str, tensor: reader.Tensor) -> np.ndarray:
    if tensor.dtype not in _FLOAT_DTYPES:
        raise WeightsError(
            f"{tensor.path}: {key} is of {tensor.dtype}; needs one of "
            f"{', '.join(_FLOAT_DTYPES)}"
        )
    with np.errstate(over="ignore"):  # float64 beyond float32's range is found below
        values = tensor.read().astype(np.float32, order="C")
    if not np.isfinite(values).all():
        count = np.count_nonzero(~np.isfinite(values))
        raise WeightsError(
            f"{tensor.path}: {key} has {count} values that are NaN or inf in float32; "
            "get the file again"
        )
    head = BASELINES[network].head if network in BASELINES else None
    if head is not None and head.non_negative and values.min() < 0:
        raise WeightsError(
            f"{tensor.path}: {key} goes down to {values.min():g}; {network} needs 0 or"
            " more"
        )
    return values


def to_flax(network: str, tensors: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts PyTorch's tensors to nested Flax parameters, kernels in HWIO."""
    expected = expected_shapes(network)
    flat: dict[str, np.ndarray] = {}
    for key, names in PUBLISHED[network].tensors.items():
        if len(expected[names[0]]) == 4:
            flat[names[0]] = tensors[key].transpose(2, 3, 1, 0)
        else:
            ends = np.cumsum([expected[name][0] for name in names])
            flat |= zip(names, np.split(tensors[key].ravel(), ends[:-1]), strict=True)
    return traverse_util.unflatten_dict(flat, sep=".")
