"""Locks between processes: one at a time, let go of by the dead."""

import contextlib
import errno
import os
import signal
import subprocess
import sys

import pytest

from spips_jax import files

HOLD = """
import sys
from spips_jax.files import locked
with locked(sys.argv[1]) as alone:
    print(alone, flush=True)
    sys.stdin.readline()
"""

COUNT = """
import os, sys, time
from spips_jax.files import locked
for _ in range(25):
    with locked(sys.argv[1]):
        with open(sys.argv[1]) as file:
            number = int(file.read())
        time.sleep(0)  # lets others in, if they are let
        with open(sys.argv[1], "w") as file:
            file.write(str(number + 1))
"""


@pytest.fixture
def start():
    """A function that runs code in a process without JAX."""
    with contextlib.ExitStack() as stack:

        def run(code, *words):
            command = [sys.executable, "-c", code, *map(str, words)]
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield run


def test_one_process_at_a_time(start, tmp_path):
    path = tmp_path / "count"
    path.write_text("0")
    processes = [start(COUNT, path) for _ in range(3)]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert path.read_text() == "75"
    assert list(tmp_path.iterdir()) == [path]


def test_others_wait_and_say_so(start, tmp_path):
    path = tmp_path / "new" / "file"
    first = start(HOLD, path)
    assert first.stdout.readline() == "True\n"
    second = start(HOLD, path)
    assert second.stderr.readline() == f"{path}: waiting for another process\n"
    assert second.poll() is None
    first.stdin.close()
    assert second.stdout.readline() == "True\n"
    second.stdin.close()
    assert first.wait() == second.wait() == 0
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_who_is_stopped_lets_go(start, tmp_path, number, capsys):
    first = start(HOLD, tmp_path / "file")
    assert first.stdout.readline() == "True\n"
    first.send_signal(number)
    first.wait()
    with files.locked(tmp_path / "file") as alone:
        assert alone
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == ""


def test_an_error_lets_go(tmp_path):
    with pytest.raises(KeyError), files.locked(tmp_path / "file"):
        raise KeyError
    with files.locked(tmp_path / "file") as alone:
        assert alone


@pytest.mark.parametrize(
    "code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF]
)
def test_file_systems_without_locks(monkeypatch, tmp_path, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with files.locked(tmp_path / "file") as alone:
        assert not alone
    assert list(tmp_path.iterdir()) == []


def test_systems_without_locks(monkeypatch, tmp_path):
    monkeypatch.setattr(files, "fcntl", None)
    with files.locked(tmp_path / "file") as alone:
        assert not alone
    assert list(tmp_path.iterdir()) == []


def test_other_errors_are_errors(monkeypatch, tmp_path):
    def flock(*_):
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with pytest.raises(OSError, match="broken"), files.locked(tmp_path / "file"):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), files.locked(tmp_path / "file" / "a"):
        pass
