"""Long runs of `spips score`: odd folders, bad pairs, odd names, broken pipes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import spips_jax
from spips_jax import image_files
from spips_jax.any_size import AnySize
from spips_jax.commands import ahead, main, scoring

PSNR = ("--model", "psnr")


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A working folder."""
    monkeypatch.setenv("SPIPS_HOME", str(tmp_path / "home"))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def save(path: str | Path, *, seed: int = 0, side: int = 40, **options: object) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return str(path)


def tree(root: str, *names: str, seed: int) -> None:
    for name in names:
        save(f"{root}/{name}", seed=seed)


def score(capsys, *words: str) -> tuple[int, list[dict], list[str]]:
    """Runs the command; returns its code, its rows and the lines of its errors."""
    code = main(["score", *words, *PSNR, "--json"])
    out, err = capsys.readouterr()
    return code, [json.loads(line) for line in out.splitlines()], err.splitlines()


@pytest.mark.parametrize("allowed", [False, True])
def test_what_is_in_no_pair_is_named(capsys, allowed):
    tree("ref", "a.png", "b.png", "c.png", "d.png", "e.png", "in/f.png", seed=0)
    tree("dist", "a.png", "in/f.png", seed=1)
    Path("dist/notes.txt").touch()
    Path("dist/.hidden").touch()
    os.mkfifo("dist/pipe.png")
    words = ("ref", "dist", *(("--allow-missing",) if allowed else ()))
    code, rows, lines = score(capsys, *words)
    assert [row["distorted"] for row in rows] == ["dist/a.png"]
    kind = "warning" if allowed else "error"
    assert [line.removeprefix(f"{kind}: left out: ") for line in lines] == [
        "ref: 1 folder in it, not looked into: in (--recursive reads folders, but no"
        " links)",
        "dist: 2 files of no known image format: notes.txt, pipe.png",
        "dist: 1 folder in it, not looked into: in (--recursive reads folders, but no"
        " links)",
        "ref: 4 images of which dist has none by their names: b.png, c.png, d.png and 1"
        " more",
    ]
    assert code == (0 if allowed else 2)


def test_trees_are_matched_by_relative_path(capsys):
    tree("ref", "a.png", "x/a.png", "x/y/b.png", seed=0)
    tree("dist", "a.png", "x/a.jpg", "x/y/b.png", seed=1)
    os.symlink("..", "dist/x/round")  # would lead in a circle
    code, rows, lines = score(capsys, "ref", "dist", "--recursive")
    assert [(row["reference"], row["distorted"]) for row in rows] == [
        ("ref/a.png", "dist/a.png"),
        ("ref/x/a.png", "dist/x/a.jpg"),
        ("ref/x/y/b.png", "dist/x/y/b.png"),
    ]
    assert len(lines) == 1
    assert "x/round" in lines[0]
    assert code == 2


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9"),
        OSError(5, "Input/output error"),
        RecursionError("too deep"),
        Image.DecompressionBombError("it is a bomb"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("where", ["reading", "the features", "the score"])
def test_a_run_survives_one_bad_pair(capsys, monkeypatch, error, where):
    """Whatever is wrong with the second of three."""
    for name in ("a", "b", "c"):
        save(f"ref/{name}.png")
        save(f"dist/{name}.png", seed=1, side=40)
    save("ref/b.png", side=48)
    save("dist/b.png", side=48, seed=1)
    module, name = {
        "reading": (Image, "open"),
        "the features": (spips_jax.Metric, "features"),
        "the score": (spips_jax.Metric, "__call__"),
    }[where]
    real = getattr(module, name)

    def fails(*args, **options):
        made = real(*args, **options)
        if 48 in (made.size if where == "reading" else args[-1].shape):
            raise error
        return made

    monkeypatch.setattr(module, name, fails)
    code, rows, lines = score(capsys, "ref", "dist")
    assert code == 2
    assert [row["score"] is not None for row in rows] == [True, False, True]
    (line,) = lines
    assert "b.png" in line
    assert line == f"error: {rows[1]['error']}"
    if isinstance(error, MemoryError | jax.errors.JaxRuntimeError):
        assert "too large for the memory" in line


def test_a_missing_extra_ends_the_run(capsys, monkeypatch):
    def fails(*args, **options):
        raise ModuleNotFoundError("No module named 'PIL'", name="PIL")

    monkeypatch.setattr("spips_jax.image_files.open_image", fails)
    code, rows, lines = score(capsys, save("a.png"), save("b.png"))
    assert (code, rows) == (2, [])
    assert lines == ["error: PIL is not installed: install spips-jax with the extra"
                     " [cli]"]  # fmt: skip


ODD_NAMES = [
    "tab\there.png",
    "new\nline.png",
    "escape\x1b[2J.png",
    "back\\slash.png",
    "quote\",'comma.png",
    "emoji \N{GRINNING FACE}.png",
    "é.png",
    "line \N{LINE SEPARATOR} and next \x85.png",
    "\N{RIGHT-TO-LEFT OVERRIDE}gnp.exe.png",
    os.fsdecode(b"latin \xe9.png"),
    " ",
]


@pytest.fixture
def odd_names() -> list[str]:
    for number, name in enumerate(ODD_NAMES):
        image = save(f"{number}.png", seed=number)
        Path("dist").mkdir(exist_ok=True)
        os.rename(image, f"dist/{name if name.strip() else ' .png'}")
    return sorted(name if name.strip() else " .png" for name in ODD_NAMES)


def run(*words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, **options.pop("environment", {})}
    return subprocess.run(
        [sys.executable, "-m", "spips_jax", "score", *words, *PSNR],
        capture_output=True,
        check=False,
        env=environment,
        **options,
    )


@pytest.mark.parametrize("locale", ["C.UTF-8", "latin-1"])
def test_any_name_can_be_printed(odd_names, locale):
    reference = save("ref.png", seed=99)
    encoding = "utf-8" if locale == "C.UTF-8" else locale
    environment = {"PYTHONIOENCODING": encoding}
    done = run(reference, "dist", environment=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    header, *lines = done.stdout.decode(encoding).splitlines()
    assert header == "reference\tdistorted\tpsnr"
    assert len(lines) == len(odd_names)
    cells = [line.split("\t") for line in lines]
    assert all(len(row) == 3 and row[0] == "ref.png" for row in cells)
    shown = {row[1] for row in cells}
    assert r"dist/tab\there.png" in shown
    assert r"dist/back\\slash.png" in shown
    assert r"dist/latin \xe9.png" in shown
    assert ("dist/é.png") in shown
    done = run(reference, "dist", "--json", environment=environment)
    rows = [json.loads(line) for line in done.stdout.decode(encoding).splitlines()]
    assert [row["distorted"].removeprefix("dist/") for row in rows] == odd_names


def test_odd_names_are_escaped_in_errors(odd_names, capsys):
    for name in odd_names:
        Path("dist", name).write_bytes(b"no image")
    code = main(["score", save("ref.png"), "dist", *PSNR])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    lines = err.split("\n")[:-1]
    assert len(lines) == len(odd_names)
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl", "JSON"])
def test_an_output_file_has_the_rows_of_the_pipe(capsys, odd_names, ending):
    output = f"out/scores.{ending}"
    Path("dist/broken.png").write_bytes(b"no image")
    command = [save("ref.png"), "dist", "--output", output]
    for _ in range(2):  # the second time over its own file
        code, rows, _ = score(capsys, *command)
        assert code == 2
    text = Path(output).read_text(encoding="utf-8")
    if ending == "csv":
        with open(output, newline="", encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        assert list(table[0]) == ["reference", "distorted", "model", "score", "error"]
        found = [float(row["score"] or "nan") for row in table]
        expected = [np.nan if row["score"] is None else row["score"] for row in rows]
        np.testing.assert_array_equal(found, expected)
        names = [row["distorted"] for row in table]
        escaped = os.fsdecode(b"dist/latin \xe9.png"), "dist/latin \\udce9.png"
        wanted = [row["distorted"].replace(*escaped) for row in rows]
        assert names == wanted
        return
    found = (
        json.loads(text)
        if ending.lower() == "json"
        else [json.loads(line) for line in text.splitlines()]
    )
    assert found == rows


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("scores.txt", "its ending must say how to write it: .csv, .json, .jsonl"),
        ("scores", "its ending must say"),
        ("pairs.csv", "is an input, too"),
        ("link.csv", "is an input, too"),
        ("notes.csv", "is there already, and is none of ours"),
        ("notes.json", "is there already, and is none of ours"),
    ],
)
def test_an_output_file_is_checked_before_any_work(capsys, output, message):
    save("a.png")
    Path("pairs.csv").write_text("reference,distorted\na.png,a.png\n")
    os.symlink("pairs.csv", "link.csv")
    Path("notes.csv").write_text("mine")
    Path("notes.json").write_text('[{"mine": 1}]')
    before = {path: path.read_bytes() for path in Path().iterdir()}
    code, rows, lines = score(capsys, "--pairs", "pairs.csv", "--output", output)
    assert (code, rows) == (2, [])
    (line,) = lines
    assert message in line
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


@pytest.mark.parametrize(
    "words",
    [
        ("score", "a.png", "a.png", *PSNR),
        ("score", "a.png", "a.png", *PSNR, "--json"),
        ("score", "--help"),
        ("models",),
        ("models", "--json"),
        ("models", "spips-lite"),
        ("data", "list"),
    ],
    ids=" ".join,
)
def test_a_full_disk_is_one_line(capfd, monkeypatch, words):
    save("a.png")
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        try:
            code = main(list(words))
        except SystemExit as ended:
            code = ended.code
    assert code == 2
    assert capfd.readouterr().err.splitlines() == [
        "error: the output cannot be written: No space left on device"
    ]


def test_a_file_without_room_is_one_line(capsys):
    os.symlink("/dev/full", "full.csv")
    code, _, lines = score(capsys, save("a.png"), "a.png", "--output", "full.csv")
    assert code == 2
    assert len(lines) == 1


def test_a_run_that_is_killed_leaves_its_rows():
    """Killed when the second row is out, of many; the third image never ends."""
    tree("dist", "a.png", "b.png", seed=1)
    os.mkfifo("fifo.png")
    save("ref.png")
    rows = ["ref.png,dist/a.png", "ref.png,dist/b.png", "ref.png,fifo.png"]
    Path("pairs.csv").write_text("reference,distorted\n" + "\n".join(rows) + "\n")
    words = ["--pairs", "pairs.csv", "--output", "scores.csv", *PSNR]
    process = subprocess.Popen(
        [sys.executable, "-m", "spips_jax", "score", *words], stdout=subprocess.PIPE
    )
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [line.split(b"\t")[1] for line in lines[1:]] == [
        b"dist/a.png",
        b"dist/b.png",
    ]
    assert len(Path("scores.csv").read_text().splitlines()) == 3


def test_nothing_is_read_after_an_interruption(capsys, monkeypatch):
    """Ctrl-C while the second pair is scored; the first is shown."""
    names = [save(f"dist/{number:02}.png") for number in range(60)]
    read, scored = [], []
    real = image_files.open_image

    def reads(path, **options):
        read.append(path)
        return real(path, **options)

    def interrupted(*_):
        scored.append(1)
        if len(scored) == 2:
            raise KeyboardInterrupt
        return 20.0

    monkeypatch.setattr(image_files, "open_image", reads)
    monkeypatch.setattr(spips_jax.Metric, "__call__", interrupted)
    code, rows, lines = score(capsys, save("ref.png", seed=1), "dist")
    assert code == 130
    assert [row["distorted"] for row in rows] == names[:1]
    assert lines == ["error: interrupted"]
    # Of the first few the second is scored, and twice as many pairs as threads wait;
    # the reference is shared.
    assert len(read) <= 1 + scoring.LOOK + 1 + 2 * ahead.THREADS


def test_several_models_score_each_pair(capsys):
    command = ["score", save("a.png"), save("b.png", seed=1), "--model", "ssim", *PSNR]
    assert main(command) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header == "reference\tdistorted\tssim\tpsnr"
    code, rows, _ = score(capsys, "a.png", "b.png", "--model", "ssim")
    assert code == 0
    assert [row["model"] for row in rows] == ["ssim", "psnr"]
    numbers = [float(cell) for cell in line.split("\t")[2:]]
    assert numbers == pytest.approx([row["score"] for row in rows], abs=1e-6)


def test_a_model_that_cannot_score_a_pair_leaves_the_others(capsys):
    """SSIM needs more pixels than PSNR."""
    small = save("a.png", side=9), save("b.png", side=9, seed=1)
    code, rows, lines = score(capsys, *small, "--model", "ssim")
    assert code == 2
    assert [row["score"] is not None for row in rows] == [False, True]
    (line,) = lines
    assert line.startswith("error: a.png, b.png: ")
    assert "height 9 is below the 11 that ssim needs" in line.lower()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--model", "ssim", "--model", "ssim"), "--model ssim is given twice"),
        (("--model", "ssim", "--maps", "maps"), "--maps goes with one model, not with"),
        (("--model", "ssim", "--head", "x"), "--head goes with one model, not with"),
        (("--model", "ssim", "--weights", "x"), "--weights goes with one model"),
    ],
)
def test_options_of_one_model_are_not_for_several(capsys, words, message):
    code, rows, lines = score(capsys, save("a.png"), save("b.png"), *words)
    assert (code, rows) == (2, [])
    assert message in lines[0]
    assert not Path("maps").exists()


def test_profiles_that_differ_are_told(capsys):
    from PIL import ImageCms

    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for code in ("ascii", "utf-16-be"):
        old, new = (name.encode(code) for name in ("sRGB built-in", "Other, mine. "))
        data = data.replace(old, new)
    other = save("b.png", icc_profile=data)
    code, rows, lines = score(capsys, save("a.png"), other)
    assert code == 0
    assert lines == [
        "warning: a.png, b.png: their colour profiles differ, sRGB and Other, mine.;"
        " values are compared as stored (--convert-profiles converts both to sRGB)"
    ]
    code, rows, lines = score(capsys, "a.png", other, "--convert-profiles")
    assert (code, lines) == (0, [])
    assert rows[0]["score"] > 45  # the same curve: off by rounding at most


def test_deep_files_are_scored_against_shallow_ones(capsys):
    """A 16-bit grey ramp against its own 8 bits: PSNR by NumPy."""
    deep = np.random.default_rng(0).integers(0, 1 << 16, (40, 40), np.uint16)
    Image.fromarray(deep).save("deep.png")
    Image.fromarray((deep >> 8).astype(np.uint8)).save("shallow.png")
    code, rows, lines = score(capsys, "deep.png", "shallow.png")
    assert (code, lines) == (0, [])
    error = np.mean((deep / 65535 - (deep >> 8) / 255) ** 2)
    # float32 in the difference of two numbers up to 1
    assert rows[0]["score"] == pytest.approx(-10 * np.log10(error), rel=1e-4)


SHAPES = [(40, 52), (33, 47), (64, 40), (41, 41), (90, 35)]


def many_sizes(*, spoil: int | None = None) -> None:
    """Pairs of five sizes; of one the second image is cut."""
    for number, (height, width) in enumerate(SHAPES):
        random = np.random.default_rng(number)
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        noise = random.integers(0, 40, pixels.shape, np.uint8)
        cut = 1 if number == spoil else 0
        for folder, image in (("ref", pixels), ("dist", (pixels // 2 + noise)[cut:])):
            Path(folder).mkdir(exist_ok=True)
            Image.fromarray(image).save(f"{folder}/{number}.png")


@pytest.fixture
def on_canvases(monkeypatch) -> list[int]:
    """How many pairs were scored together, each time."""
    together: list[int] = []
    real = AnySize.pairs

    def counted(self, pairs, **options):
        pairs = list(pairs)
        together.append(len(pairs))
        return real(self, pairs, **options)

    monkeypatch.setattr(AnySize, "pairs", counted)
    return together


def test_many_sizes_are_scored_together(capsys, on_canvases):
    """Each as if alone, whatever is wrong with one, and in order."""
    many_sizes(spoil=2)
    code = main(["score", "ref", "dist", "--json", *PSNR, "--model", "ssim"])
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    assert on_canvases == [4, 4]
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "2.png" in err
    assert "a pair must have one size" in err
    assert [row["distorted"] for row in rows[::2]] == [
        f"dist/{number}.png" for number in range(5)
    ]
    for row in rows:
        if "2.png" in row["distorted"]:
            assert row["score"] is None
            continue
        metric = spips_jax.load(row["model"])
        images = [image_files.read_image(row[k]) for k in ("reference", "distorted")]
        # float32's rounding, of sums in another order
        np.testing.assert_allclose(row["score"], metric(*images), rtol=2e-6)


def test_few_sizes_and_single_pairs_have_programs_of_their_own(capsys, on_canvases):
    for side in (40, 48):
        for name in ("a", "b"):
            save(f"ref/{side}{name}.png", side=side)
            save(f"dist/{side}{name}.png", side=side, seed=1)
    code, rows, _ = score(capsys, "ref", "dist")
    assert (code, len(rows), on_canvases) == (0, 4, [])


def test_what_fails_together_is_scored_one_by_one(capsys, monkeypatch):
    many_sizes()

    def fails(self, pairs, **options):
        raise MemoryError

    monkeypatch.setattr(AnySize, "pairs", fails)
    code, rows, lines = score(capsys, "ref", "dist")
    assert (code, lines) == (0, [])
    assert all(row["score"] > 0 for row in rows)


def test_maps_that_need_more_memory_than_there_is_are_refused(capsys, monkeypatch):
    monkeypatch.setattr(scoring, "free_memory", lambda: 2_000_000)
    pair = save("a.png", side=40), save("b.png", side=40, seed=1)
    code, rows, lines = score(capsys, *pair, "--maps", "maps")
    assert (code, rows[0]["score"]) == (2, None)
    assert "maps of 40x40 pixels take about 0.0 GiB of memory, and 0.0 GiB" in lines[0]
    monkeypatch.setattr(scoring, "free_memory", lambda: None)  # nobody knows
    code, rows, _ = score(capsys, *pair, "--maps", "maps")
    assert (code, rows[0]["score"] is None) == (0, False)
