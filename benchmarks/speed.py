"""Speed and memory beside peers: one table; `README.md` says how to read it.

    python benchmarks/speed.py --json speed.json --chart speed.png
    python benchmarks/speed.py --only score/spips-lite memory --rounds 5

Each side is a process of its own. Rounds are interleaved (ours, peer, ours, peer ...),
so that load or throttling of the machine affects all sides, and only one works at a
time. --json is written after every case.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import numpy as np
import table
import worker

LEAST_ROUNDS = 3
REQUEST_SECONDS = 0.1
"""About how long one request works: short jobs run many times in it."""


class Failed(Exception):  # noqa: N818 - it ends one side of one case
    """A side that could not be measured, and why."""


class Bench:
    """Measures cases; keeps the workers.

    Args:
      peers: the Python of the peers.
      rounds: at most so many for each case.
      limit: seconds after which a case gets no more rounds than `LEAST_ROUNDS`; after
        four times as many it ends in any case, after one round at the earliest.
    """

    def __init__(self, *, peers: str, rounds: int, limit: float) -> None:
        self.workers = {
            "ours": worker.Worker(sys.executable, "ours.py"),
            "peer": worker.Worker(peers, "peer.py"),
        }
        self.rounds, self.limit = rounds, limit

    def versions(self) -> dict[str, str]:
        """Of all packages of all workers."""
        found: dict[str, str] = {}
        for name, one in self.workers.items():
            answer = one.ask("", {})
            found |= answer.get("about", {name: answer.get("error", "")})
        return found

    def measure(self, case: cases.Case) -> dict[str, Any]:
        """One case: of each side the rounds, or why there are none."""
        sides: dict[str, dict[str, Any]] = {}
        runs: dict[str, Callable[[], float]] = {}
        for name, side in case.sides.items():
            record = sides[name] = {"unit": getattr(side, "unit", "s"), "rounds": []}
            try:
                runs[name] = self._prepare(case.name, side, record)
            except Failed as failure:
                record["error"] = str(failure)
        start, done = time.perf_counter(), 0
        while runs and done < min(self.rounds, case.rounds):
            for name in list(runs):
                try:
                    sides[name]["rounds"].append(runs[name]())
                except Failed as failure:
                    sides[name]["error"] = str(failure)
                    del runs[name]
            done += 1
            spent = time.perf_counter() - start
            if spent > self.limit * (1 if done >= LEAST_ROUNDS else 4):
                break
        row = {"case": case.name, "sides": sides, "alike": case.alike}
        if case.floor:
            times, spec = case.floor
            answer = self.workers["ours"].ask(case.name, spec)
            if "error" in answer:
                row["floor_error"] = answer["error"]
            else:
                row["work"] = {k: times * v for k, v in answer["value"].items()}
        return row

    def _prepare(
        self, case: str, side: cases.Request | cases.Program, record: dict[str, Any]
    ) -> Callable[[], float]:
        """Compiles and warms up, untimed; returns what runs one round."""
        if isinstance(side, cases.Program):
            if side.home:
                run_program(side)
            return lambda: run_program(side)

        def ask(runs: int) -> list[float]:
            answer = self.workers[side.by].ask(case, side.spec, runs)
            if "error" in answer:
                raise Failed(answer["error"])
            record["value"] = answer.get("value")
            return answer["seconds"]

        ask(1)
        (seconds,) = ask(1)
        count = int(np.clip(REQUEST_SECONDS / max(seconds, 1e-9), 1, 50))
        return lambda: float(np.median(ask(count)))

    def close(self) -> None:
        """Ends the workers."""
        for one in self.workers.values():
            one.close()


def run_program(program: cases.Program) -> float:
    """The seconds or MiB of one process."""
    with tempfile.TemporaryDirectory() as empty:
        environment = worker.environment(
            SPIPS_HOME=program.home or empty,
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        )
        start = time.perf_counter()
        done = subprocess.run(
            program.command, env=environment, capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise Failed(f"ended with {done.returncode}: {last[:200]}")
    if program.unit == "s" and not program.rate:
        return seconds
    said = json.loads(done.stdout.splitlines()[-1])
    return 1 / said[program.rate] if program.rate else said


def chosen(found: list[cases.Case], beginnings: list[str] | None) -> list[cases.Case]:
    """The cases whose names begin as asked, at a slash; exits where one names none."""
    if beginnings is None:
        return found
    picked = set()
    for beginning in beginnings:
        stem = beginning.rstrip("/")
        names = {c.name for c in found if f"{c.name}/".startswith(f"{stem}/")}
        if not names:
            known = sorted({"/".join(c.name.split("/")[:2]) for c in found})
            sys.exit(f"--only {beginning}: no such case; there are {', '.join(known)}")
        picked |= names
    return [case for case in found if case.name in picked]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="CASE", help="names' beginnings")
    parser.add_argument("--rounds", type=int, default=21, help="at most (default: 21)")
    parser.add_argument(
        "--seconds", type=float, default=20, help="about, for a case (default: 20)"
    )
    parser.add_argument("--json", metavar="FILE", help="write all rounds")
    parser.add_argument("--chart", metavar="FILE", help="draw the ratios")
    parser.add_argument(
        "--peers",
        default=sys.executable,
        metavar="PYTHON",
        help="of the environment that has the peers (default: this one)",
    )
    parser.add_argument(
        "--large", action="store_true", help="memory at 12000x9000, too: 20 GB"
    )
    args = parser.parse_args()
    for file in filter(None, (args.json, args.chart)):
        if not os.access(Path(file).absolute().parent, os.W_OK):
            sys.exit(f"{file}: its folder is missing or cannot be written")
    bench = Bench(peers=args.peers, rounds=args.rounds, limit=args.seconds)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        found = list(cases.all_cases(scratch, args.peers, large=args.large))
        found = chosen(found, args.only)
        if any(case.name.startswith("folder/") for case in found):
            cases.make_folders(scratch)
        result: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "processor": cases.processor(),
            "load": os.getloadavg()[0],
            "versions": bench.versions(),
            "rows": [],
        }
        print(table.heading(result), flush=True)
        try:
            for case in found:
                result["rows"].append(bench.measure(case))
                for line in table.lines(result, result["rows"][-1]):
                    print(line, flush=True)
                if args.json:
                    Path(args.json).write_text(json.dumps(result, indent=1))
        except KeyboardInterrupt:
            print("interrupted: the table is of what was measured", file=sys.stderr)
        finally:
            bench.close()
    for note in table.notes(result):
        print(note)
    if args.chart and result["rows"]:
        table.draw(result, args.chart)


if __name__ == "__main__":
    main()
