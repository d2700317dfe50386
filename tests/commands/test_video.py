"""`spips video`: frames are those of the file, and an end is told."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import spips_jax
from spips_jax.commands import main

av = pytest.importorskip("av", reason="PyAV is not installed")


def write_video(path: str, frames: np.ndarray) -> None:
    """Without loss: FFV1 in RGB."""
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "bgr0"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


@pytest.fixture
def frames(tmp_path, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    """Six frames of noise, and the same with more of it from one to the next."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    original = rng.integers(50, 200, (6, 40, 48, 3))
    noise = rng.standard_normal(original.shape)
    levels = np.arange(1, 7).reshape(-1, 1, 1, 1)
    distorted = (original + 4 * levels * noise).clip(0, 255)
    original, distorted = original.astype(np.uint8), distorted.astype(np.uint8)
    write_video("a.mkv", original)
    write_video("b.mkv", distorted)
    for folder, images in (("a", original), ("b", distorted)):
        Path(folder).mkdir()
        for number, image in enumerate(images):
            Image.fromarray(image).save(f"{folder}/{number:03}.png")
    return original, distorted


@pytest.mark.parametrize("ending", [".mkv", ""])
def test_frames_have_the_metrics_scores(frames, ending, capsys):
    words = ["video", f"a{ending}", f"b{ending}", "--model", "psnr", "--json"]
    assert main([*words, "--plot", "plot.png", "--output", "s.csv"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = np.asarray(spips_jax.load("psnr")(*frames))
    # The same sums in one batch, of another size.
    np.testing.assert_allclose([row["score"] for row in rows], expected, rtol=1e-5)
    assert rows[3]["distorted"] == f"b{ending}#3"
    with Path("s.csv").open() as file:
        assert [row["distorted"] for row in csv.DictReader(file)] == [
            row["distorted"] for row in rows
        ]
    with Image.open("plot.png") as picture:
        assert picture.info["Software"] == "spips-jax"
    assert main([*words, "--every", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["distorted"] for line in lines] == [
        f"b{ending}#0",
        f"b{ending}#3",
    ]


def test_one_that_ends_first_leaves_what_was_scored(frames, capsys):
    write_video("short.mkv", frames[1][:5])
    assert main(["video", "a.mkv", "short.mkv", "--model", "psnr", "--json"]) == 2
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 5
    assert err.splitlines()[-1] == (
        "error: short.mkv ends after 5 frames, a.mkv goes on: compare what lasts"
        " equally long"
    )


def test_what_is_no_video_is_one_line(frames, capsys):
    write_video("small.mkv", frames[1][:, :36, :40])
    Path("text.mp4").write_text("no video")
    Path("empty").mkdir()
    for words, message in (
        (["a.mkv", "text.mp4"], "text.mp4: cannot be read as a video"),
        (["a.mkv", "none.mp4"], "none.mp4: no such file"),
        (["empty", "b"], "empty: holds no image file"),
        (["a.mkv", "small.mkv"], "are of 40x36 and 48x40 pixels: scale one"),
        (["a.mkv", "b.mkv", "--every", "0"], "--every is 0: give 1 or more"),
        (["a.mkv", "b.mkv", "--output", "b.mkv"], "its ending must say how"),
        (["a.mkv", "b.mkv", "--plot", "b.mkv"], "is an input, too"),
    ):
        assert main(["video", *words, "--model", "psnr"]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("error: ") == 1
