"""`spips data`: what a user sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spips_jax.commands import main as spips
from spips_jax.data.sets import BUILDERS


def main(words: list[str]) -> int:
    return spips(["data", *words])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared scenes; not to be changed."""
    folder = tmp_path_factory.mktemp("made")
    arguments = ["--size", "32", "--kinds", "jpeg", "--data_dir", str(folder)]
    assert main(["prepare", "synthetic", *arguments]) == 0
    return folder


def test_prepare_prints_the_folder_and_only_that(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "synthetic" / "scenes" / "2.0.0"
    arguments = ["--size", "32", "--kinds", "jpeg", "--data_dir", str(tmp_path)]
    for _ in range(2):  # the second finds it there
        assert main(["prepare", "synthetic", *arguments]) == 0
        output = capsys.readouterr()
        assert output.out == f"{folder}\n"
        assert output.err == ""
    assert (folder / "index.csv").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"synthetic"}


def test_list_names_every_set_and_what_is_prepared(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["list", "--data_dir", str(made)]) == 0
    output = capsys.readouterr().out
    for name in BUILDERS:
        assert name in output
    assert "synthetic/scenes" in output
    assert "higher is worse" in output
    lines = {
        line.split("│")[1].strip(): line for line in output.splitlines() if "│" in line
    }
    for name, words in (
        ("live", "over the whole set"),
        ("tid2013", "within one reference only"),
        ("pipal", "within one reference only"),
        ("synthetic", "within one distortion of one reference only"),
    ):
        assert words in lines[name]


def test_list_shows_the_protocol_of_ones_own_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("r", "a", "b"):
        Image.fromarray(np.zeros((33, 40, 3), np.uint8)).save(tmp_path / f"{name}.png")
    table = tmp_path / "mine.csv"
    table.write_text("reference,distorted,mos\nr.png,a.png,1\nr.png,b.png,2\n")
    prepare = ["prepare", "pair_list", "--csv", str(table), "--data_dir", str(tmp_path)]
    assert main([*prepare, "--name", "mine"]) == 0
    assert main([*prepare, "--name", "elo", "--comparable", "reference"]) == 0
    capsys.readouterr()
    assert main(["list", "--data_dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    (mine,) = [line for line in lines if "pair_list/mine" in line]
    (elo,) = [line for line in lines if "pair_list/elo" in line]
    assert "over the whole set" in mine
    assert "within one reference only" in elo
    # One that an earlier version made is listed; to open it says what to do.
    (tmp_path / "pair_list" / "elo" / "1.0.0" / "protocol.json").unlink()
    assert main(["list", "--data_dir", str(tmp_path)]) == 0
    (elo,) = [x for x in capsys.readouterr().out.splitlines() if "pair_list/elo" in x]
    assert "unknown" in elo


def test_a_bad_pair_is_a_line_and_the_others_are_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("r", "a", "b"):
        Image.fromarray(np.zeros((33, 40, 3), np.uint8)).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no")
    table = tmp_path / "mine.csv"
    table.write_text("reference,distorted,mos\nr.png,a.png,1\nr.png,b.png,2\n")
    sets = ["--data_dir", str(tmp_path / "sets")]
    prepare = ["prepare", "pair_list/mine", "--csv", str(table), *sets]
    assert main(prepare) == 2
    output = capsys.readouterr()
    folder = tmp_path / "sets/pair_list/mine/1.0.0"
    assert output.out == f"{folder}\n"
    first, last = output.err.splitlines()
    assert first.startswith(f"error: mine.csv, line 3: {tmp_path / 'b.png'}: not an im")
    assert last == f"error: {folder}: lacks the 1 above, and has all others"
    assert main(["list", *sets]) == 0
    listed = capsys.readouterr().out
    assert "pair_list/mine, 1 of 2" in listed
    assert "left out, as their images were bad: b.png" in listed
    assert main(prepare) == 2  # still in part
    assert "is there already, in part: 1 of 2" in capsys.readouterr().err
    assert main([*prepare, "--partial"]) == 0


def test_list_tells_partial_sets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tid2013" / "1.0.0"
    folder.mkdir(parents=True)
    (folder / "index.csv").write_text("split,id,reference_id\nfull,a,r\nfull,b,r\n")
    assert main(["list", "--data_dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("tid2013" in line and "│ 2 of 3,000" in line for line in lines)
    assert "tid2013 is prepared in part: 2 of 3,000" in lines


def test_a_set_has_one_name_for_every_command(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data_dir", str(made)]
    capsys.readouterr()
    for name in ("synthetic", "synthetic/scenes"):
        assert main(["prepare", name, "--size", "32", "--kinds", "jpeg", *where]) == 0
        output = str(tmp_path / "sheet.png")
        assert main(["show", name, "--count", "1", "--output", output, *where]) == 0
    both = ["--data", "synthetic", "--data", "synthetic/scenes"]
    words = ["evaluate", "--model", "psnr", *both, "--output", str(tmp_path / "report")]
    assert spips(words) == 2
    assert "synthetic/scenes is given twice" in capsys.readouterr().err


def test_show_draws_the_examples(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    output = tmp_path / "sheet.png"
    arguments = ["--data_dir", str(made), "--count", "6", "--output", str(output)]
    assert main(["show", "synthetic/scenes", *arguments]) == 0
    assert capsys.readouterr().out == f"{output}\n"
    pixels = np.array(Image.open(output).convert("RGB"))
    assert pixels.shape[1] > pixels.shape[0] > 100
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 500  # photographs, not text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "imagenet"], "set 'imagenet' is not one of bapps"),
        (["prepare", "tid2013", "--manual_dir", "none"], "none: no such folder"),
        (["prepare", "pair_list"], "needs --csv FILE and --name NAME"),
        (["prepare", "pair_list", "--csv", "x.csv", "--name", "x"], "x.csv"),
        (["prepare", "synthetic", "--photographs", "x"], "needs --name NAME"),
        (["prepare", "synthetic", "--kinds", "fog"], "distortion 'fog' is not one of"),
        (["prepare", "synthetic", "--kinds", "jpg"], "did you mean jpeg"),
        (["prepare", "Synthetic"], "did you mean synthetic"),
        (["prepare", "tid2013", "--csv", "x"], "tid2013 takes no --csv: its options"),
        (["prepare", "tid2013", "--name", "x"], "tid2013 takes no --name"),
        (["prepare", "tid2013", "--tiles"], "tid2013 takes no --tiles"),
        (["prepare", "pair_list", "--tiles"], "pair_list takes no --tiles"),
        (["prepare", "pair_list", "--manual_dir", "x"], "takes no --manual_dir"),
        (["prepare", "synthetic", "--csv", "x"], "synthetic takes no --csv"),
        (["prepare", "synthetic", "--name", ""], "cannot be called ''"),
        (["prepare", "synthetic", "--name", "../../x"], "cannot be called '../../x'"),
        (["prepare", "synthetic/../../x"], "cannot be called '../../x'"),
        (["prepare", "synthetic", "--size", "0"], "size is 0"),
        (["show", "synthetic"], "synthetic/scenes is not prepared"),
        (["show", "TID2013"], "did you mean tid2013"),
        (["prepare", "synthetic", "--tiles"], "tiles are cut from photographs"),
        (["prepare", "synthetic", "--sample", "21"], "a sample of 21 kinds"),
        (["show", "tid2013"], "tid2013 is not prepared"),
        (["show", "tid2013", "--count", "0"], "--count 0"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*arguments, "--data_dir", str(tmp_path)]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert message in output.err


def test_wrong_calls_point_to_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["prepare"])
    assert exit_.value.code == 2
    assert "--help" in capsys.readouterr().err
