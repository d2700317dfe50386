"""Ctrl-C gets through, whenever it comes."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from spips_jax import commands
from spips_jax.commands import interrupts

SECONDS = 5  # an interruption that is lost fails the test after these

MODULE = """
import os, signal
os.kill(os.getpid(), signal.SIGINT)
{then}
finished = True
"""


def wait():
    time.sleep(SECONDS)
    raise AssertionError("the interruption was lost")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module during whose import Ctrl-C comes."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(then=""):
        (tmp_path / "slow_module.py").write_text(MODULE.format(then=then))

    yield write
    sys.modules.pop("slow_module", None)


@pytest.mark.parametrize("then", ["", "import json.tool"])
def test_an_import_is_finished_first(module, then):
    module(then)
    finished = []

    @interrupts.never_lost()
    def run():
        import slow_module

        finished.append(slow_module.finished)
        wait()

    with pytest.raises(KeyboardInterrupt):
        run()
    assert finished == [True]


def test_one_that_a_destructor_swallows_comes_again():
    class Interrupted:
        def __del__(self):
            os.kill(os.getpid(), signal.SIGINT)
            for _ in range(1000):  # it is raised at one of these
                pass

    @interrupts.never_lost()
    def run():
        Interrupted()
        wait()

    with pytest.raises(KeyboardInterrupt):
        run()


def test_elsewhere_it_comes_at_once():
    @interrupts.never_lost()
    def run():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(interrupts._SOON / 2)
        raise AssertionError("it did not come at once")

    with pytest.raises(KeyboardInterrupt):
        run()


def test_handlers_are_as_before():
    hook = sys.unraisablehook
    with interrupts.never_lost():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert sys.unraisablehook is hook


def test_handlers_of_others_and_other_threads_are_left_alone():
    def theirs(*_):
        pass

    signal.signal(signal.SIGINT, theirs)
    try:
        with interrupts.never_lost():
            assert signal.getsignal(signal.SIGINT) is theirs
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    entered = []
    thread = threading.Thread(
        target=lambda: interrupts.never_lost()(entered.append)(True)
    )
    thread.start()
    thread.join()
    assert entered == [True]


@pytest.mark.parametrize("command", ["convert", "score", "check"])
def test_a_command_ends_with_130_and_one_line(module, monkeypatch, capsys, command):
    """Interrupted while it imports what it needs."""
    module()

    def run(args):
        import slow_module  # noqa: F401

        wait()

    where = importlib.import_module(f"spips_jax.commands.{command}")
    monkeypatch.setattr(where, "run", run)
    words = {"convert": ["alexnet"], "score": ["--example"], "check": []}[command]
    assert commands.main([command, *words]) == 130
    assert capsys.readouterr().err == "error: interrupted\n"


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_a_process_ends_with_the_commands_code(code):
    """An interrupted one, too, whose compiled code is not taken down."""
    program = (
        "import atexit, sys; from spips_jax import commands;"
        f"commands.main = lambda words: print(words) or {code};"
        "atexit.register(print, 'cleaned');"
        "commands.program('convert')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "alexnet"], capture_output=True, text=True
    )
    assert done.stdout == "['convert', 'alexnet']\ncleaned\n"
    assert (done.returncode, done.stderr) == (code, "")
