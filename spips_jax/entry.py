"""How the scripts start and fail: flags, warnings and errors in one line each."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from spips_jax.data.builder import DataError
from spips_jax.weights import WeightsError

EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


def run_script(
    run: Callable[[Sequence[str]], int],
    *,
    errors: tuple[type[Exception], ...],
    fields: str,
    config: str | None = None,
    interrupted: str = "interrupted",
) -> None:
    """Parses absl's flags, runs a script and exits with its code; never returns.

    Args:
      run: takes the words that are no flags and returns the exit code.
      errors: the script's own errors; these, and those of data, weights and files, are
        a line on stderr and exit code 2.
      fields: the page that lists the fields of its configs.
      config: the file that --config names where it is not given.
      interrupted: the line after Ctrl-C, whose exit code is 130.
    """
    expected = errors + (DataError, WeightsError, OSError)  # noqa: RUF005, for mypy

    def main(argv: Sequence[str]) -> int:
        logging.set_verbosity(logging.WARNING)  # TFDS tells of every set it opens
        warnings.showwarning = _warn
        try:
            return run(argv[1:])
        except BrokenPipeError:
            # The reader went away, as `| head` does; keep Python from flushing into it.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except expected as error:
            return _failed(str(error))
        except KeyboardInterrupt:
            _failed(interrupted)
            return EXIT_INTERRUPTED

    def parse(argv: Sequence[str]) -> list[str]:
        words = list(argv)
        if config and not any(word.split("=")[0] in _CONFIG_FLAGS for word in words):
            words.insert(1, f"--config={config}")
        try:
            return flags.FLAGS(words)
        except (KeyError, AttributeError) as error:  # an override of no field
            given = " ".join(word for word in argv if word.startswith("--config"))
            name = str(error).strip("\"'")
            sys.exit(_failed(f"no field {name!r} in {given}; {fields} lists them all"))
        except Exception as error:  # a config is a program and may raise anything
            sys.exit(_failed(str(error)))

    app.run(main, flags_parser=parse)


_CONFIG_FLAGS = ("--config", "-config")


def _warn(message: Warning | str, *where: object, **more: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _failed(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return EXIT_ERROR
