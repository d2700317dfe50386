"""Shared fixtures: random and real weights, metrics on them, photographs."""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import spips_jax
from spips_jax import backbones, weights
from spips_jax.spips import Spips, initialize

HAS_EMITTERS = jax.__version_info__ < (0, 11)
"""Whether XLA has fusion emitters that can be switched off: an unknown flag ends it."""

# These emitters take half of the time of compilation. `as_users_do` brings them back.
if HAS_EMITTERS:
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"
    )

# A shell ignores it in what it starts in the background, and so would all processes
# that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# JAX keeps millions of objects, which the default collects over and over.
gc.set_threshold(100_000, 50, 50)

# Most of the time is compilation, of programs that run once on small images: the
# operations are the same, their code is less optimised. `optimized` brings that back.
jax.config.update("jax_disable_most_optimizations", True)
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "true"  # in processes that tests start

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)  # so that pmap has something to map

ROOT = Path(__file__).resolve().parents[1]


def compiled_programs() -> Path:
    """Where compiled programs are kept for the other worker and for the next run.

    JAX's keys tell programs, options and versions apart, but not CPUs.
    """
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else [platform.platform()]
    flags = [line for line in lines if line.startswith(("flags", "Features"))] or lines
    digest = hashlib.sha256(flags[0].encode()).hexdigest()[:16]
    return Path.home() / ".cache" / "spips_jax" / "tests" / digest


if jax.config.values["jax_compilation_cache_dir"] is None:
    jax.config.update("jax_compilation_cache_dir", str(compiled_programs()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

SHARED = ROOT.parent / "shared"

SLOW = (
    "test_metric.py", "test_loop.py", "test_devices.py", "test_kodak.py",
    "test_resume.py", "test_scores.py", "test_tid2013.py", "test_embedded.py",
    "test_distill.py", "test_evaluate_command.py", "test_classical_metrics.py",
    "test_step.py", "test_winograd.py", "test_baselines.py", "test_backbones.py",
    "test_loss.py", "test_twin.py", "test_examples.py", "test_pages.py",
    "test_quickstart.py", "test_checkpoint.py",
    "test_checkpoint_damage.py", "test_hosts.py",
)  # fmt: skip
"""Files that `-m quick` leaves out, from the slowest on; all others are quick."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks quick tests, and puts slow files first, so that no worker ends with one."""
    order = {name: number for number, name in enumerate(SLOW)}
    items.sort(key=lambda item: order.get(item.path.name, len(SLOW)))
    for item in items:
        if item.path.name not in order:
            item.add_marker(pytest.mark.quick)


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Finds real weights or images beside the checkout, or skips."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"real data is not here: shared/{name}")
        return path

    return find


@pytest.fixture(scope="session")
def real_weights(
    shared: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """Converts real PyTorch weights by the command, once a network."""
    from spips_jax.commands import main

    folder = tmp_path_factory.mktemp("weights")
    sources = {
        "alexnet": "weights/alexnet_features.npz",
        "squeezenet": "weights/squeezenet1_1_features.npz",
        "lpips-alexnet": "weights/lpips_v0.1/alex.pth",
        "lpips-squeezenet": "weights/lpips_v0.1/squeeze.pth",
    }

    def convert(network: str) -> Path:
        output = folder / f"{network}.safetensors"
        if not output.exists():
            source = shared(sources[network])
            code = main(
                ["convert", network, "--source", str(source), "--output", str(output)]
            )
            assert code == 0
        return output

    return convert


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tests of runs keep compiled programs and pooled sets."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def spips_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps what runs cache in `home`."""
    monkeypatch.setenv("SPIPS_HOME", str(home))


_CACHE_OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)


@pytest.fixture(autouse=True)
def _cache_options() -> Iterator[None]:
    """JAX's options that commands set are after a test as they were."""
    before = {option: jax.config.values[option] for option in _CACHE_OPTIONS}
    yield
    for option, value in before.items():
        jax.config.update(option, value)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    """Runs `spips` in this process; returns its exit code, output and errors."""
    from spips_jax.commands import main

    def run(*words: str) -> tuple[Any, str, str]:
        try:
            code: Any = main(list(words))
        except SystemExit as end:  # argparse's
            code = end.code
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.fixture(scope="session")
def start(home: Path) -> Callable[..., subprocess.Popen[str]]:
    """Starts Python on a CPU's virtual devices, with one cache of compiled programs.

    `coordinator`, an address, and `process` make it one of two processes.
    """

    def run(
        words: Sequence[str | Path],
        *,
        devices: int = 1,
        coordinator: str = "",
        process: int = 0,
        cwd: Path = ROOT,
        **options: Any,
    ) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "SPIPS_HOME": str(home),
        }
        if coordinator:
            environment |= {
                "JAX_COORDINATOR_ADDRESS": coordinator,
                "JAX_NUM_PROCESSES": "2",
                "JAX_PROCESS_ID": str(process),
            }
        return subprocess.Popen(
            [sys.executable, *words],
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return run


@pytest.fixture(scope="session")
def two_processes() -> Callable[..., list[str]]:
    """Runs a program as two JAX processes over loopback; returns what each printed.

    Its words are a folder, the coordinator's port and the number of the process.
    """

    def run(program: str, folder: Path) -> list[str]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        processes = [
            subprocess.Popen(
                [
                    *(sys.executable, "-W", "error", "-c", program),
                    *(str(folder), str(port), str(index)),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
            )
            for index in range(2)
        ]
        outputs = [process.communicate(timeout=120) for process in processes]
        for process, (_, errors) in zip(processes, outputs, strict=True):
            assert process.returncode == 0, errors
        return [output for output, _ in outputs]

    return run


@pytest.fixture
def optimized() -> Iterator[None]:
    """Programs are compiled as users have them: for tests whose programs run long."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def as_users_do() -> dict[str, bool]:
    """`compiler_options` of `jax.jit` for the compiler's own defaults."""
    return {"xla_cpu_use_fusion_emitters": True} if HAS_EMITTERS else {}


def he_params(network: str, *, seed: int = 0) -> dict:
    """He-initialised parameters, so that activations keep their scale in depth."""
    rng = np.random.default_rng(seed)
    params: dict = {}
    for name, shape in weights.expected_shapes(network).items():
        *path, leaf = name.split(".")
        node = params
        for part in path:
            node = node.setdefault(part, {})
        scale = np.sqrt(2 / np.prod(shape[:-1])) if leaf == "kernel" else 0.1
        node[leaf] = (scale * rng.normal(size=shape)).astype(np.float32)
    return params


@pytest.fixture(scope="session")
def random_params() -> Callable[..., dict]:
    """Makes random parameters of a network as NumPy arrays."""
    return he_params


@pytest.fixture(scope="session")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Writes a weight file of random numbers, once a backbone."""
    folder = tmp_path_factory.mktemp("random")

    def write(network: str) -> Path:
        path = folder / f"{network}.safetensors"
        if not path.exists():
            weights.write_weights(path, he_params(network), network=network)
        return path

    return write


@pytest.fixture(scope="session")
def random_metric(
    random_weights: Callable[[str], Path],
) -> Callable[..., spips_jax.Metric]:
    """Loads an untrained SPIPS model on random weights, once a network and dtype."""
    loaded: dict = {}

    def load(network: str, dtype: str = "float32") -> spips_jax.Metric:
        key = (network, dtype)
        if key not in loaded:
            loaded[key] = spips_jax.load(
                f"spips-{network}",
                trained=False,
                weights=random_weights(network),
                dtype=dtype,
            )
        return loaded[key]

    return load


@pytest.fixture(scope="session")
def light(random_metric: Callable[..., spips_jax.Metric]) -> spips_jax.Metric:
    """SPIPS over AlexNet without those classical maps that compile for seconds."""
    backbone = random_metric("alexnet").variables["params"]["backbone"]
    module = Spips(backbone=backbones.build("alexnet"), classical=("psnr",))
    params = {**initialize(module), "backbone": backbone}
    return spips_jax.Metric(variables={"params": params}, module=module, name="light")


EMBEDDED = [name for name in spips_jax.MODELS if weights.embedded(name)]


@pytest.fixture(params=EMBEDDED, scope="session")
def embedded(
    request: pytest.FixtureRequest, real_weights: Callable[[str], Path]
) -> spips_jax.Metric:
    """Each trained model of the package in turn; skips where its backbone is not."""
    network = spips_jax.MODELS[request.param]
    file = real_weights(network) if network in weights.PUBLISHED else None
    return spips_jax.load(request.param, weights=file)


@pytest.fixture(params=backbones.BACKBONES)
def network(request: pytest.FixtureRequest) -> str:
    """Each backbone in turn."""
    return request.param


@pytest.fixture
def pair() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Makes a smooth random image and a noisy copy, float32 in [0, 1]."""

    def make(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        *batch, height, width = shape
        y, x = np.mgrid[:height, :width]
        phase = rng.uniform(0, 6, (*batch, 1, 1, 3))
        waves = np.sin(x[..., None] / 5 + y[..., None] / 9 + phase)
        reference = 0.5 + 0.3 * waves + 0.1 * rng.random((*batch, height, width, 3))
        distorted = reference + 0.05 * rng.normal(size=reference.shape)
        clip = [
            np.clip(image, 0, 1).astype(np.float32) for image in (reference, distorted)
        ]
        return clip[0], clip[1]

    return make
