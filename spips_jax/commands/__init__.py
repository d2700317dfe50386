"""The `spips` command: one tree, a file for each of its commands.

Nothing but argparse is imported until a command runs, so that help is quick. A command
returns its exit code, or raises `UserError` for what a user can put right. Results go
to standard output; progress, warnings and errors go to standard error, an error in one
line that begins with "error: ".
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import NoReturn

from spips_jax import __version__
from spips_jax.commands.configs import split_overrides
from spips_jax.commands.interrupts import never_lost
from spips_jax.messages import UserError, one_line, printable

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130

EXTRAS = {
    "PIL": "cli", "rich": "cli", "matplotlib": "cli",
    "absl": "data", "array_record": "data", "grain": "data", "openpyxl": "data",
    "scipy": "data", "tensorflow_datasets": "data",
    "av": "video",
    "imagecodecs": "formats", "tifffile": "formats",
    "ml_collections": "eval",
    "onnxruntime": "onnx",
    "etils": "train", "optax": "train", "orbax": "train", "tensorboard": "train",
}  # fmt: skip
"""The extra that brings each optional package."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Of errors that name no file: the one that is being written has no room."""

_EPILOG = """\
examples:
  spips score --example --maps maps/
  spips score photo.png photo.jpg
  spips models
  spips data prepare synthetic
  spips train --config quickstart --workdir runs/quickstart

`spips COMMAND --help` tells more of each.
"""


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a call in one line."""

    def __init__(self, **options: object) -> None:
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **options)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_ERROR, f"error: {message} (see {self.prog} --help)\n")


def program(*words: str) -> NoReturn:
    """Runs the command of this process, and ends it; `words` come before its own."""
    code = main([*words, *sys.argv[1:]])
    if code == EXIT_INTERRUPTED:
        # JAX crashes when it is taken down after a compilation that was cut short.
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@never_lost()
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with the words after its name; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    with _any_name_can_be_printed():
        try:
            code = _run(words)
        except SystemExit:  # the end of --help, too
            if (error := _flush()) is not None:
                raise SystemExit(failed(_unwritable(error))) from None
            raise
        error = _flush()
        return code if error is None else failed(_unwritable(error))


def _run(words: list[str]) -> int:
    shown = warnings.showwarning
    try:
        overrides, words = split_overrides(words)
        args = _parser().parse_args(words)
        if overrides and not hasattr(args, "overrides"):
            return failed(f"{overrides[0]}: this command has no config")
        args.overrides = overrides
        warnings.showwarning = _show_warning
        return args.run(args)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return failed(
            f"{package} is not installed: install spips-jax with the extra"
            f" [{EXTRAS[package]}]"
        )
    except BrokenPipeError:
        _flush()
        return 0
    except OSError as error:
        _flush()
        if error.filename is None and error.errno in _FULL:
            return failed(_unwritable(error))
        named = error.filename is not None and error.strerror
        return failed(
            f"{error.filename}: {error.strerror}" if named else one_line(error)
        )
    except UserError as error:
        return failed(one_line(error))
    except KeyboardInterrupt as error:
        failed(str(error) or "interrupted")
        return EXIT_INTERRUPTED
    except Exception:
        # Without a device JAX raises whatever comes first, wherever it is used first.
        missing = _missing_device()
        if missing is None:
            raise
        return failed(missing)
    finally:
        warnings.showwarning = shown


@contextlib.contextmanager
def _any_name_can_be_printed() -> Iterator[None]:
    """Escapes what the locale has no characters for, and bytes that are none."""
    stream = sys.stdout
    if not isinstance(stream, io.TextIOWrapper):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # it was closed meanwhile
            stream.reconfigure(errors=before)


def _flush() -> OSError | None:
    """Writes out what standard output still holds; returns why it cannot.

    If its reader went away, as `| head` does, that is no error. What is left is thrown
    away in both cases, or Python would try again at its end and complain.
    """
    if sys.stdout is None:  # closed by who called
        return None
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return None if isinstance(error, BrokenPipeError) else error
    return None


def _unwritable(error: OSError) -> str:
    return f"the output cannot be written: {error.strerror}"


def failed(message: str) -> int:
    """Prints an error in its one line; returns the exit code."""
    print(f"error: {printable(message)}", file=sys.stderr)
    return EXIT_ERROR


def _missing_device() -> str | None:
    """The line that says that JAX has no device; None if it has, or never started."""
    if "jax" not in sys.modules:
        return None
    from spips_jax.parallel import DeviceError, check_devices

    try:
        check_devices()
    except DeviceError as error:
        return one_line(error)
    return None


def _parser() -> Parser:
    # Here, and not where it would run before `main` handles Ctrl-C.
    from spips_jax.commands import (
        check,
        convert,
        data,
        evaluate,
        export,
        models,
        score,
        train,
        twin,
        video,
        warm,
    )

    parser = Parser(
        prog="spips",
        description="Full-reference image quality as people see it: score images,"
        " evaluate metrics,\ntrain models.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "--version", action="version", version=f"spips-jax {__version__}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (
        score, video, models, data, train, evaluate, convert, export, twin, check,
        warm,
    ):  # fmt: skip
        command.add_to(commands)
    return parser


def _show_warning(message: Warning | str, *where: object, **more: object) -> None:
    text = one_line(Warning(message))
    if "jax" in sys.modules:
        from spips_jax.cache import after_unreadable

        text = after_unreadable(text)
    print(f"warning: {printable(text)}", file=sys.stderr)
