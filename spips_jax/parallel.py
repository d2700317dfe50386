"""Devices and processes: the one file that knows `jax.pmap` and `jax.distributed`.

Steps are plain functions of a replicated tree and a device's part of a batch; inside
them `mean` and `gather` combine values of all devices. Replicated trees have no device
axis, so that the training state looks the same on one device and on a pod.
"""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from spips_jax.messages import UserError

AXIS = "devices"

DISTRIBUTED = ("auto", "yes", "no")

_COORDINATORS = ("MEGASCALE_COORDINATOR_ADDRESS", "JAX_COORDINATOR_ADDRESS")
"""Variables that name a coordinator; only runs of several processes have one."""

_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
"""Variables that hold the number of processes."""

_LISTS = ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
"""Variables that list the hosts of a TPU slice, on Kubernetes."""

_METADATA_SECONDS = 5.0


def initialize(distributed: str) -> None:
    """Joins the processes of a run over several hosts, where there are several.

    The environment gives the coordinator, the number of processes and this one's index:
    JAX detects them on TPU pods, Slurm, Open MPI and Kubernetes; elsewhere set
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. "auto" recognises the
    same environments, except for Kubernetes without TPUs.

    Args:
      distributed: "yes", "no", or "auto": if the environment names several hosts.

    Raises:
      ValueError: "yes", and the environment lacks what is needed.
    """
    wanted = distributed == "yes" or (distributed == "auto" and _several_hosts())
    if not wanted or jax.distributed.is_initialized():
        return
    count, index = (
        int(value) if (value := os.environ.get(name, "")).isdigit() else None
        for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    )
    try:
        jax.distributed.initialize(num_processes=count, process_id=index)
    except (ValueError, RuntimeError) as error:  # Runtime: JAX was used before
        raise ValueError(
            f"distributed is {distributed!r}, but the processes cannot find each other"
            f" ({error}): set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and"
            " JAX_PROCESS_ID, or distributed to 'no'"
        ) from None


def _several_hosts() -> bool:
    """Whether the environment names more than one host or process."""
    environment = os.environ
    if any(environment.get(name) for name in _COORDINATORS):
        return True
    counts = [environment.get(name, "") for name in _COUNTS]
    if any(count.isdigit() and int(count) > 1 for count in counts):
        return True
    if any("," in environment.get(name, "") for name in _LISTS):
        return True
    return "," in _tpu_workers()


def _tpu_workers() -> str:
    """The hosts of this TPU VM's slice, comma-separated; "" elsewhere.

    Slices made by gcloud set no variable: only their metadata server knows the hosts.
    """
    # JAX sets the variable on import if there is no TPU, to avoid waiting for a server
    # that does not exist.
    if "TPU_SKIP_MDS_QUERY" in os.environ or importlib.util.find_spec("libtpu") is None:
        return ""
    server = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
    request = urllib.request.Request(
        f"http://{server}/computeMetadata/v1/instance/attributes/"
        "worker-network-endpoints",
        headers={"Metadata-Flavor": "Google"},
    )
    # The server is link-local, where no proxy reaches.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=_METADATA_SECONDS) as answer:
            return answer.read().decode()
    except (OSError, http.client.HTTPException):
        return ""


class DeviceError(UserError):
    """JAX has no device of the kind that it was told to use."""


def check_devices() -> None:
    """Starts JAX, where JAX_PLATFORMS says on what; else JAX takes what there is.

    Raises:
      DeviceError: there is no device of the kind that it names.
    """
    wanted = jax.config.values["jax_platforms"]
    if not wanted:
        return
    try:
        jax.devices()
    except Exception:  # of a type that depends on the kind
        raise DeviceError(
            f"JAX_PLATFORMS is {wanted}, and JAX finds no such device here, only"
            f" {_kinds_there_are(wanted)}: unset it, or install the JAX for your device"
            " (https://docs.jax.dev/en/latest/installation.html)"
        ) from None


def _kinds_there_are(wanted: str) -> str:
    """The kinds of devices that JAX finds by itself, comma-separated."""
    jax.config.update("jax_platforms", None)
    try:
        return ", ".join(sorted({device.platform for device in jax.devices()}))
    except Exception:
        return "none"
    finally:
        jax.config.update("jax_platforms", wanted)


def is_writer() -> bool:
    """Whether this process is the one that writes logs and files."""
    return jax.process_index() == 0


def everywhere(value: bool) -> bool:
    """Whether `value` is true in every process; all of them must call this."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.process_allgather(np.bool_(value)).all())


def in_all(flags: np.ndarray) -> np.ndarray:
    """Which of the flags `(N,)` are true in every process; all must call this."""
    if jax.process_count() == 1:
        return flags
    return np.logical_and.reduce(multihost_utils.process_allgather(flags))


def of_the_writer(array: np.ndarray) -> np.ndarray:
    """The writer's array in every process; all must pass one of the same shape."""
    if jax.process_count() == 1:
        return array
    return np.array(multihost_utils.broadcast_one_to_all(array))  # writable


def mapped(step: Callable[..., Any], *, donate: bool = False) -> Callable[..., Any]:
    """Compiles a step for all devices.

    Args:
      step: `(first, second, batch) -> result`, where the first two and the result are
        replicated: `mean` or `gather` must make the result equal on every device.
      donate: whether `first` may be overwritten.

    Returns:
      A function of two replicated trees and a batch from `split`.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        donate_argnums=(0,) if donate else (),
    )


def mean(tree: Any) -> Any:
    """Inside a step: the mean over devices."""
    return jax.lax.pmean(tree, AXIS)


def gather(tree: Any) -> Any:
    """Inside a step: the rows `(b, ...)` of all devices as `(B, ...)`."""
    return jax.tree.map(lambda x: jax.lax.all_gather(x, AXIS, tiled=True), tree)


def replicate(tree: Any) -> Any:
    """Puts a tree on this process's devices, so that steps need not copy it."""
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()), (AXIS,))
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, jax.P()))


def split(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Splits arrays `(b, ...)` over this process's devices, `(devices, b', ...)`."""
    devices = jax.local_device_count()
    return {
        name: array.reshape(devices, -1, *array.shape[1:])
        for name, array in batch.items()
    }


@contextlib.contextmanager
def stop_signal() -> Iterator[Callable[[int], int]]:
    """Turns SIGTERM and Ctrl-C into a value to check between steps.

    Yields:
      A function of the step that returns the number of the received signal, or 0; with
      several processes, it returns the same in all of them at the same step. A second
      Ctrl-C interrupts at once, as usual.
    """
    if jax.process_count() > 1:
        # SIGTERM to any process reaches all of them through JAX's coordinator.
        yield (
            lambda step: (
                signal.SIGTERM
                if multihost_utils.reached_preemption_sync_point(step)
                else 0
            )
        )
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: 0  # only the main thread handles signals
        return
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    for asked in (signal.SIGTERM, signal.SIGINT):
        before[asked] = signal.signal(asked, note)
    try:
        yield lambda step: received[0] if received else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
