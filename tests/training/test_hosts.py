"""Which runs are of several hosts, and what their processes must agree on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import jax
import pytest

from spips_jax import parallel

ROOT = Path(__file__).resolve().parents[2]

WORKERS = "/computeMetadata/v1/instance/attributes/worker-network-endpoints"

VARIABLES = (
    "MEGASCALE_COORDINATOR_ADDRESS", "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES",
    "JAX_PROCESS_ID", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE",
    "TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES",
)  # fmt: skip


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What `jax.distributed.initialize` was called with, in a plain environment."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda **options: calls.append(options)
    )
    return calls


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str | None], None]]:
    """Makes this a TPU VM; gives it the metadata server's list of workers, or none.

    What the server is asked for and by whom is Google's published interface.
    """
    answers: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == WORKERS and answers[-1] is not None
            allowed = self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known and allowed else 404)
            self.end_headers()
            if known and allowed:
                self.wfile.write(str(answers[-1]).encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{server.server_port}")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # must not be taken
        monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
        yield answers.append
        server.shutdown()
        thread.join()


@pytest.fixture
def libtpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package libtpu that can be found."""
    (tmp_path / "libtpu.py").touch()
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.parametrize(
    ("variables", "several"),
    [
        ({}, False),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234"}, True),
        ({"MEGASCALE_COORDINATOR_ADDRESS": "10.0.0.1"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_STEP_NUM_TASKS": "2"}, True),
        # A batch script of Slurm's that starts one process by itself, without srun.
        ({"SLURM_NTASKS": "2"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "4"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "w-0,w-1"}, True),
        ({"TPU_PROCESS_ADDRESSES": "w-0:8476,w-1:8476"}, True),
    ],
)
def test_the_environment_says_whether_there_are_several_hosts(
    variables: dict[str, str],
    several: bool,
    joined: list[dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    parallel.initialize("auto")
    assert len(joined) == several
    parallel.initialize("no")
    assert len(joined) == several
    parallel.initialize("yes")
    assert len(joined) == several + 1


@pytest.mark.parametrize(
    ("workers", "several"),
    [
        # Both forms of the list, as JAX's own detection reads them.
        ("unknown:unknown:10.0.0.1,unknown:unknown:10.0.0.2", True),
        ("t1v-n-0-w-0,t1v-n-0-w-1", True),
        ("unknown:unknown:10.0.0.1", False),
        (None, False),
    ],
)
@pytest.mark.usefixtures("libtpu")
def test_a_tpu_vm_asks_its_metadata_server(
    workers: str | None,
    several: bool,
    joined: list[dict[str, Any]],
    metadata: Callable[[str | None], None],
) -> None:
    metadata(workers)
    parallel.initialize("auto")
    assert len(joined) == several


def test_where_there_is_no_tpu_no_server_is_asked(
    joined: list[dict[str, Any]],
    metadata: Callable[[str | None], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metadata("w-0,w-1")
    parallel.initialize("auto")  # no libtpu
    (tmp_path / "libtpu.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    parallel.initialize("auto")  # no chips: JAX sets the variable
    assert not joined


def test_importing_jax_without_a_tpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `_tpu_workers` relies on, in a fresh interpreter."""
    if Path("/dev/accel0").exists() or Path("/dev/vfio/0").exists():
        pytest.skip("there may be a TPU here")
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    program = "import jax, os; print(os.environ.get('TPU_SKIP_MDS_QUERY'))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True)
    assert told.stdout.decode().strip() == "1", told.stderr.decode()


@pytest.mark.usefixtures("libtpu")
def test_a_server_that_does_not_answer_names_no_hosts(
    joined: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{taken.getsockname()[1]}")
        parallel.initialize("auto")
    assert not joined


PROCESS = """
import sys
import numpy as np
from jax.experimental import multihost_utils
from spips_jax import data
from spips_jax import parallel
from spips_jax.training.pooled import pooled_dataset

def main():
    root, folder = sys.argv[1:]
    parallel.initialize("auto")
    whole = data.load("synthetic/scenes", data_dir=root)

    def compute(done):
        print("computes", flush=True)
        positions = np.arange(len(whole))
        # All processes must come here, or the others wait for ever.
        multihost_utils.sync_global_devices("compute")
        yield positions, np.stack([positions, -positions], 1)[:, None].astype("f4")

    pooled = pooled_dataset(whole, folder=folder, network="x", compute=compute)
    assert pooled[7]["pooled"].tolist() == [[7, -7]]

if __name__ == "__main__":
    main()
"""


def test_processes_with_caches_of_their_own_compute_together(
    tiny_data: Path, tmp_path: Path
) -> None:
    """One of two hosts was replaced: its cache is empty, the other's is not."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    program = tmp_path / "process.py"
    program.write_text(PROCESS)

    def start(cache: str, **variables: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
            **variables,
        }
        return subprocess.Popen(
            [sys.executable, str(program), str(tiny_data), str(tmp_path / cache)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(process: subprocess.Popen[str]) -> list[str]:
        try:
            out, errors = process.communicate(timeout=120)
        finally:
            process.kill()
        assert process.returncode == 0, errors
        # Gloo, which joins them, writes to stdout as well.
        return [line for line in out.splitlines() if not line.startswith("[Gloo]")]

    assert said(start("kept")) == ["computes"]
    assert said(start("kept")) == []
    both = [
        start(
            cache,
            JAX_COORDINATOR_ADDRESS=address,
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(number),
        )
        for number, cache in enumerate(("kept", "new"))
    ]
    assert [said(process) for process in both] == [["computes"], ["computes"]]
