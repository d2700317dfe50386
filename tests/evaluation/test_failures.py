"""One bad example costs its own score and nothing else, whatever is wrong with it."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from spips_jax import data, evaluation
from spips_jax.commands import main
from spips_jax.data import dataset as dataset_lib
from spips_jax.data import units
from spips_jax.data.dataset import Dataset
from spips_jax.evaluation import figures, scores
from spips_jax.evaluation.statistics import agreements
from spips_jax.images import ImageError
from spips_jax.messages import out_of_memory

pytestmark = pytest.mark.usefixtures("no_figures")

PAIRS = "pair_list/tiny"
BAD = "r1-3.png"

EXHAUSTED = jax.errors.JaxRuntimeError(
    "RESOURCE_EXHAUSTED: Out of memory allocating 9000000000 bytes.\nmore lines"
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (np.exceptions.AxisError("out of memory"), False),
        (EXHAUSTED, True),
        (jax.errors.JaxRuntimeError("INTERNAL: Out of memory while trying"), True),
        (type("XlaRuntimeError", (RuntimeError,), {})("RESOURCE_EXHAUSTED: x"), True),
        (jax.errors.JaxRuntimeError("INVALID_ARGUMENT: x"), False),
        (RuntimeError("RESOURCE_EXHAUSTED"), False),
    ],
)
def test_exhausted_memory_is_known(error: BaseException, expected: bool) -> None:
    assert out_of_memory(error) is expected


Break = Callable[[pytest.MonkeyPatch, np.ndarray], None]


def _reading(error: Exception) -> Break:
    """One image cannot be decoded."""

    def apply(monkeypatch: pytest.MonkeyPatch, bad: np.ndarray) -> None:
        decode = dataset_lib._decode

        def decoded(content: bytes) -> np.ndarray:
            image = decode(content)
            if np.array_equal(image, bad):
                raise error
            return image

        monkeypatch.setattr(dataset_lib, "_decode", decoded)

    return apply


def _record(monkeypatch: pytest.MonkeyPatch, bad: np.ndarray) -> None:
    """One record is damaged."""
    record = Dataset.__dict__["_record"]

    class Source:
        def __init__(self, source: Any, row: int) -> None:
            self.source, self.row = source, row

        def __getitem__(self, row: int) -> Any:
            if row == self.row:
                raise ValueError("chunk data hash\nmismatch")
            return self.source[row]

    def read(self: Dataset, position: int) -> Any:
        if self.index["id"][position] != BAD:
            return record(self, position)
        row = int(self._rows[position])
        return record(replace(self, _source=Source(self._source, row)), position)

    monkeypatch.setattr(Dataset, "_record", read)


def _size(monkeypatch: pytest.MonkeyPatch, bad: np.ndarray) -> None:
    """One image has another size than the index says, or another number of channels."""
    decode = dataset_lib._decode

    def decoded(content: bytes) -> np.ndarray:
        image = decode(content)
        return image[..., 0] if np.array_equal(image, bad) else image

    monkeypatch.setattr(dataset_lib, "_decode", decoded)


def _scoring(error: Exception) -> Break:
    """One image makes the devices fail, in a batch and alone."""

    def apply(monkeypatch: pytest.MonkeyPatch, bad: np.ndarray) -> None:
        _wrap(
            monkeypatch, lambda images: (images == bad).all((-3, -2, -1)).any(), error
        )

    return apply


def _wrap(
    monkeypatch: pytest.MonkeyPatch,
    fails: Callable[[np.ndarray], bool],
    error: Exception,
    seen: list[int] | None = None,
) -> None:
    """Devices fail on some images, and note how many examples they get."""
    mapped = scores._mapped

    def failing(*kind: Any) -> Callable[..., Any]:
        step = mapped(*kind)

        def run(metric: Any, reference: Any, batch: Mapping[str, Any]) -> Any:
            if seen is not None:
                seen.append(int(batch["mask"].sum()))
            images = batch["distorted"]
            if images.shape[-3:] == (40, 40, 3) and fails(images):
                raise error
            return step(metric, reference, batch)

        return run

    monkeypatch.setattr(scores, "_mapped", failing)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that compiles nothing: scores fall with the variance of the image."""

    def step(metric: Any, reference: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
        flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in batch.items()}
        values = 1 / flat["distorted"].var((1, 2, 3))
        return {**flat, "values": values.astype(np.float32)[:, None]}

    monkeypatch.setattr(scores, "_mapped", lambda *kind: step)
    monkeypatch.setattr(scores, "_saves_work", lambda *_: False)


FAULTS: dict[str, tuple[Break, str]] = {
    "undecodable": (_reading(OSError("broken data stream")), "broken data stream"),
    "bomb": (_reading(ValueError("decompression\nbomb")), "decompression bomb"),
    "no memory to read": (_reading(MemoryError()), "40x40 pixels"),
    "record": (_record, "cannot be read (chunk data hash mismatch)"),
    "size": (_size, "has the shape (40, 40), index.csv says (40, 40, 3)"),
    "no memory to score": (_scoring(EXHAUSTED), "memory is exhausted by its 40x40"),
    "not for this metric": (_scoring(ImageError("too small")), "too small"),
}


@pytest.fixture
def bad(sets: Path) -> np.ndarray:
    dataset = data.load(PAIRS, data_dir=sets)
    return dataset[dataset.index["id"].tolist().index(BAD)]["distorted"]


def rows_of(folder: Path) -> dict[str, str]:
    with (folder / "scores.csv").open(newline="") as file:
        return {row["id"]: row["psnr"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_others_are_scored(
    config: Callable[..., ConfigDict],
    bad: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    """An empty score, a line, numbers of 20; and the next run tries only that one."""
    apply, why = FAULTS[fault]
    made = config(models=("psnr",), batch_size=4)
    with monkeypatch.context() as broken:
        apply(broken, bad)
        done = evaluation.evaluate(made, tmp_path)
    (line,) = done.errors
    assert line.startswith(f"psnr on {PAIRS}: {BAD}: ")
    assert why in line
    assert "\n" not in line
    found = rows_of(tmp_path)
    assert [name for name, score in found.items() if not score] == [BAD]
    one = done.results["sets"][PAIRS]
    assert (one["examples"], one["selected"]) == (20, 21)
    assert one["failed"]["psnr"].keys() == {BAD}
    assert "error" not in one["models"]["psnr"]
    text = (tmp_path / "results.md").read_text()
    assert "\n20 of 21 examples, 3 references; mos" in text
    assert "psnr: 1 of 21 examples could not be scored, and are left out" in text

    kept = tmp_path / "scores" / "pair_list-tiny" / "psnr.csv"
    before = kept.read_text()
    counts: list[int] = []
    _wrap(monkeypatch, lambda images: False, EXHAUSTED, counts)
    again = evaluation.evaluate(made, tmp_path)
    assert not again.errors
    assert kept.read_text().startswith(before)
    assert kept.read_text().count("\n") == before.count("\n") + 1
    assert len(counts) == 1  # of the six batches of four, the one with the bad example
    repaired = rows_of(tmp_path)
    assert float(repaired.pop(BAD)) > 0
    assert repaired == {k: v for k, v in found.items() if k != BAD}


def test_a_batch_too_large_is_scored_one_by_one(
    config: Callable[..., ConfigDict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(models=("psnr",))
    whole = evaluation.evaluate(made, tmp_path / "whole").results["sets"][PAIRS]
    counts: list[int] = []

    def distinct(images: np.ndarray) -> bool:
        return len(np.unique(images.reshape(-1, 4800), axis=0)) > 1

    _wrap(monkeypatch, distinct, EXHAUSTED, counts)
    done = evaluation.evaluate(made, tmp_path / "small")
    assert not done.errors
    assert counts.count(1) == 14  # those of 40x40 pixels; the others fit
    assert done.results["sets"][PAIRS]["models"] == whole["models"]


def test_a_batch_too_large_to_read_is_read_one_by_one(
    config: Callable[..., ConfigDict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's memory is too short for several examples at once."""
    stack = units.stack

    def stacked(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if len({one["id"] for one in examples}) > 1:
            raise MemoryError
        return stack(examples)

    monkeypatch.setattr(units, "stack", stacked)
    done = evaluation.evaluate(config(models=("psnr",)), tmp_path)
    assert not done.errors
    assert "" not in rows_of(tmp_path).values()


def test_metrics_are_compared_on_what_all_could_score(
    config: Callable[..., ConfigDict],
    bad: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One metric fails on one example, the other on none: both are of the same 20."""
    made = config(models=("psnr", "ssim"))
    evaluation.evaluate(config(models=("ssim",)), tmp_path)  # is kept, and is whole
    _scoring(EXHAUSTED)(monkeypatch, bad)
    done = evaluation.evaluate(made, tmp_path)
    one = done.results["sets"][PAIRS]
    assert one["failed"].keys() == {"psnr"}
    assert one["examples"] == 20
    dataset = data.load(PAIRS, data_dir=made.data_dir)
    rows = dataset.index["id"] != BAD
    with (tmp_path / "scores.csv").open(newline="") as file:
        ssim = np.array([float(row["ssim"]) for row in csv.DictReader(file)])
    expected = agreements(dataset.select(rows), ssim[rows, None], higher_is_better=True)
    assert one["models"]["ssim"]["srcc"]["value"] == pytest.approx(
        expected["srcc"], abs=1e-12
    )


def test_a_metric_that_can_score_nothing(
    config: Callable[..., ConfigDict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Has no numbers; a few lines, not one for each; the others have all of theirs."""
    made = config(models=("psnr", "ssim"), batch_size=4)
    made.data[PAIRS].exclude_references = "r2"
    evaluation.evaluate(_only(made, "ssim"), tmp_path)
    _wrap(monkeypatch, lambda images: True, EXHAUSTED)
    done = evaluation.evaluate(made, tmp_path)
    assert len(done.errors) == 12
    assert done.errors[10] == f"psnr on {PAIRS}: and 4 more examples"
    assert done.errors[11] == f"psnr on {PAIRS}: none of 14 examples could be scored"
    one = done.results["sets"][PAIRS]
    assert one["examples"] == 14
    assert one["models"]["ssim"]["srcc"]["value"] is not None
    assert len(one["failed"]["psnr"]) == 14


def _only(config: ConfigDict, label: str) -> ConfigDict:
    made = config.copy_and_resolve_references()
    made.models = ConfigDict({label: made.models[label]})
    return made


def test_a_fault_of_the_program_still_raises(
    config: Callable[..., ConfigDict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _wrap(monkeypatch, lambda images: True, TypeError("a bug"))
    with pytest.raises(TypeError, match="a bug"):
        evaluation.evaluate(config(models=("psnr",)), tmp_path)


def test_training_still_stops_at_a_damaged_example(
    sets: Path, bad: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one line: a batch of something else would be another run."""
    FAULTS["undecodable"][0](monkeypatch, bad)
    dataset = data.load(PAIRS, data_dir=sets)
    with (
        data.eval_batches(dataset, batch_size=4) as batches,
        pytest.raises(data.DataError, match=f"distorted of {BAD} cannot be decoded"),
    ):
        list(batches)


def test_the_command_ends_with_2_and_a_line(
    bad: np.ndarray,
    sets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The report is there, and pictures that take too much memory are left out."""
    _scoring(EXHAUSTED)(monkeypatch, bad)
    monkeypatch.setattr(figures, "write_disagreement", _raise)
    words = ["evaluate", "--model=psnr", f"--data={PAIRS}", "--output", str(tmp_path)]
    words += [f"--config.data_dir={sets}", "--config.worst=1", "--config.samples=9"]
    assert main(words) == 2
    output = capsys.readouterr()
    lines = [one for one in output.err.splitlines() if one.startswith("error: ")]
    assert lines[0].startswith(f"error: psnr on {PAIRS}: {BAD}: memory is exhausted")
    assert "is not drawn: memory is exhausted by its maps" in lines[1]
    assert len(lines) == 2
    assert "Traceback" not in output.err
    assert (tmp_path / "results.md").read_text() in output.out


def _raise(*args: object, **more: object) -> None:
    raise EXHAUSTED
