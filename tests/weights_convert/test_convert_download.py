"""Downloads from a server on the loopback interface: whole, resumed, cut, wrong."""

import contextlib
import dataclasses
import hashlib
import http.server
import os
import re
import subprocess
import sys
import threading

import pytest

from spips_jax import files
from spips_jax.weights import PUBLISHED, WeightsError
from weights_convert import download

CONTENT = bytes(range(256)) * 1000
TIMEOUT = 10  # of a test that fails
NAME = f"tiny-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at any path.

    `ranges`: whether it knows the Range header; `cut`: it breaks off after so many
    bytes; `status`: it answers with that error; `location`: it redirects to there;
    `gate`: it answers with half of the rest, and waits for this before the other half.
    """

    daemon_threads = True
    content = CONTENT
    ranges = True
    cut: int | None = None
    status: int | None = None
    location: str | None = None
    gate: threading.Event | None = None

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str | None] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/models/{NAME}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers["Range"]
        server.asked.append(asked)
        if server.location or server.status:
            self.send_response(server.status or 302)
            self.send_header("Location", server.location or "")
            self.end_headers()
            return
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked else 0
        size = len(server.content)
        if not server.ranges:
            start = 0
        elif start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.end_headers()
            return
        self.send_response(206 if server.ranges and asked else 200)
        if server.ranges and asked:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        if server.gate:
            half = (start + size) // 2
            self.wfile.write(server.content[start:half])
            server.gate.wait(TIMEOUT)
            start = half
        stop = size if server.cut is None else start + server.cut
        self.wfile.write(server.content[start:stop])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with contextlib.closing(Server()) as server:
        server.close = server.server_close  # what `closing` calls
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def part(tmp_path):
    return tmp_path / f"{NAME}.part"


def test_whole_file(server, tmp_path, part):
    folder = tmp_path / "new" / "folder"
    path = download.download(server.url, folder)
    assert path == folder / NAME
    assert path.read_bytes() == CONTENT
    assert [file.name for file in folder.iterdir()] == [NAME]
    assert server.asked == [None]


def test_a_file_that_is_there_is_not_downloaded_again(server, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT)
    assert download.download(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked == []


def test_a_folder_that_cannot_be_written_is_known_before_the_download(server, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match=r"file: cannot be .* set SPIPS_HOME"):
        download.download(server.url, tmp_path / "file")
    assert server.asked == []


def test_a_damaged_file_is_downloaded_again(server, tmp_path):
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    assert download.download(server.url, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("ranges", [True, False])
def test_resuming(server, tmp_path, part, ranges):
    server.ranges = ranges
    part.write_bytes(CONTENT[:1000])
    assert download.download(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]
    assert not part.exists()


def test_a_complete_part_needs_no_server(server, tmp_path, part):
    part.write_bytes(CONTENT)
    assert download.download(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked == []


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("excess", [b"", b"more"])
def test_a_part_of_other_content_starts_anew(server, tmp_path, part, ranges, excess):
    """As long as the file, or longer: the server has nothing to add to it."""
    server.ranges = ranges
    part.write_bytes(bytes(len(CONTENT)) + excess)
    assert download.download(server.url, tmp_path).read_bytes() == CONTENT


def test_a_connection_that_breaks_off_can_be_resumed(server, tmp_path, part):
    server.cut = 5000
    with pytest.raises(WeightsError, match="after 5000 of 256000 bytes; run it again"):
        download.download(server.url, tmp_path)
    assert part.read_bytes() == CONTENT[:5000]
    assert not (tmp_path / NAME).exists()
    server.cut = None
    assert download.download(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=5000-"]


def test_a_wrong_digest_removes_the_file(server, tmp_path):
    server.content = CONTENT[::-1]
    found = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(WeightsError) as error:
        download.download(server.url, tmp_path)
    assert found in str(error.value)
    assert NAME[5:13] in str(error.value)
    assert not list(tmp_path.glob("tiny*"))


FETCH = """
import pathlib, sys, types
from spips_jax import files, messages
weights = types.ModuleType("spips_jax.weights")  # without JAX, which takes seconds
weights.PUBLISHED, weights.WeightsError = {}, messages.UserError
sys.modules["spips_jax.weights"] = weights
cache = types.ModuleType("spips_jax.cache")
cache.unwritable = lambda folder: ""
sys.modules["spips_jax.cache"] = cache
from weights_convert import download
if sys.argv[3] == "without locks":
    files.fcntl = None
print(download.download(sys.argv[1], pathlib.Path(sys.argv[2])))
"""


@pytest.fixture
def fetch(server, tmp_path):
    """A function that starts a process that downloads; all write stderr to one pipe."""
    reading, writing = os.pipe()
    processes = []

    def start(locks="with locks"):
        words = [sys.executable, "-c", FETCH, server.url, tmp_path, locks]
        processes.append(
            subprocess.Popen(words, stdout=subprocess.PIPE, stderr=writing, text=True)
        )
        return processes[-1]

    # So that a test that waits for a line too many fails.
    timer = threading.Timer(TIMEOUT, os.write, (writing, b"too late\n" * 9))
    timer.start()
    with open(reading) as said:
        yield start, said
        timer.cancel()
        for process in processes:
            process.kill()
            process.communicate()
    os.close(writing)


@pytest.mark.parametrize("begun", [0, 1000])
def test_of_four_processes_one_downloads(server, fetch, tmp_path, part, begun):
    server.gate = threading.Event()
    if begun:
        part.write_bytes(CONTENT[:begun])
    start, said = fetch
    processes = [start() for _ in range(4)]
    lines = [said.readline() for _ in range(4)]
    waiting = f"{tmp_path / NAME}: waiting for another process\n"
    assert sorted(lines) == sorted([waiting] * 3 + [f"downloading {server.url}\n"])
    server.gate.set()
    assert [process.wait(TIMEOUT) for process in processes] == [0] * 4
    assert {process.stdout.read() for process in processes} == {f"{tmp_path / NAME}\n"}
    assert server.asked == [f"bytes={begun}-" if begun else None]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        NAME: CONTENT
    }


def test_the_next_resumes_where_a_killed_process_stopped(server, fetch, tmp_path):
    server.gate = threading.Event()
    start, said = fetch
    first = start()
    assert said.readline() == f"downloading {server.url}\n"
    second = start()
    assert "waiting" in said.readline()
    first.kill()
    server.gate.set()
    assert second.wait(TIMEOUT) == 0
    assert len(server.asked) == 2
    assert (tmp_path / NAME).read_bytes() == CONTENT
    assert len(list(tmp_path.iterdir())) == 1


def test_without_locks_each_process_downloads(server, fetch, tmp_path, part):
    """And one of them takes over what was there."""
    part.write_bytes(CONTENT[:1000])
    server.gate = threading.Event()
    start, said = fetch
    processes = [start("without locks") for _ in range(3)]
    for _ in processes:
        assert said.readline() == f"downloading {server.url}\n"
    server.gate.set()
    assert [process.wait(TIMEOUT) for process in processes] == [0] * 3
    assert sorted(map(str, server.asked)) == ["None", "None", "bytes=1000-"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        NAME: CONTENT
    }


def test_without_locks_a_broken_download_is_resumed(
    server, tmp_path, part, monkeypatch
):
    monkeypatch.setattr(files, "fcntl", None)
    server.cut = 5000
    with pytest.raises(WeightsError, match="run it again to resume"):
        download.download(server.url, tmp_path)
    assert part.read_bytes() == CONTENT[:5000]
    assert list(tmp_path.iterdir()) == [part]


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_server_that_refuses(server, tmp_path, status):
    server.status = status
    with pytest.raises(WeightsError, match=f"the server answers {status}"):
        download.download(server.url, tmp_path)


def test_no_server(server, tmp_path):
    url = server.url.replace(str(server.server_port), "1")
    with pytest.raises(WeightsError, match="refused"):
        download.download(url, tmp_path)


def test_redirections_do_not_leave_https(server, tmp_path):
    server.location = "http://example.org/tiny.pth"
    with pytest.raises(WeightsError, match=r"http://example\.org.*over https only"):
        download.download(server.url, tmp_path)


@pytest.mark.parametrize("scheme", ["http", "ftp", "file"])
def test_only_https_is_downloaded(tmp_path, scheme):
    with pytest.raises(WeightsError, match="over https only"):
        download.download(f"{scheme}://example.org/{NAME}", tmp_path)


@pytest.mark.parametrize("network", PUBLISHED)
def test_addresses_of_the_authors(network):
    published = PUBLISHED[network]
    assert re.fullmatch(
        r"https://download\.pytorch\.org/models/\w.*-[0-9a-f]{8}\.pth"
        r"|https://raw\.githubusercontent\.com/[\w/]+/master/[\w./]+\.pth?",
        published.url,
    )
    assert re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", published.sha256)


@pytest.mark.parametrize(
    ("network", "file"),
    [
        ("lpips-alexnet", "lpips_v0.1/alex.pth"),
        ("lpips-vgg16", "lpips_v0.1/vgg.pth"),
        ("lpips-squeezenet", "lpips_v0.1/squeeze.pth"),
        ("dists", "dists/weights.pt"),
    ],
)
def test_digests_are_those_of_the_real_files(shared_weights, network, file):
    content = shared_weights(file).read_bytes()
    assert hashlib.sha256(content).hexdigest() == PUBLISHED[network].sha256


def test_a_mirror_has_the_authors_names(server, tmp_path, monkeypatch):
    """The digest is the author's, and in the name of the file that is kept."""
    digest = hashlib.sha256(CONTENT).hexdigest()
    tiny = dataclasses.replace(
        PUBLISHED["dists"], url="https://there/path/tiny.pt", sha256=digest
    )
    monkeypatch.setitem(PUBLISHED, "dists", tiny)
    mirror = server.url.rpartition("/")[0] + "/"
    path = download.fetch("dists", tmp_path, mirror=mirror)
    assert path.name == f"dists-{digest[:16]}.pt"
    assert path.read_bytes() == CONTENT
    for change, message in (
        ({"sha256": "0" * 64}, r"/models/tiny\.pt: its SHA-256 is "),
        ({"url": ""}, r"dists has no download: get .*github\.com.*--source"),
    ):
        changed = dataclasses.replace(tiny, **change)
        monkeypatch.setitem(PUBLISHED, "dists", changed)
        with pytest.raises(WeightsError, match=message):
            download.fetch("dists", tmp_path, mirror=mirror)


def test_it_works_without_rich(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich", None)
    download.download(server.url, tmp_path)
    assert capsys.readouterr().err == f"downloading {server.url}\n"


def test_the_bar_stays_out_of_logs(server, tmp_path, capsys):
    pytest.importorskip("rich", reason="draws the bar")
    download.download(server.url, tmp_path)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.strip() == f"downloading {server.url}"
