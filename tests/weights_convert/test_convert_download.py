"""Downloads from a server on the loopback interface: whole, resumed, cut, wrong."""

import contextlib
import hashlib
import http.server
import re
import sys
import threading

import pytest

from spips_jax.weights import PUBLISHED, WeightsError
from weights_convert import download

CONTENT = bytes(range(256)) * 1000
NAME = f"tiny-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at any path.

    `ranges`: whether it knows the Range header; `cut`: it breaks off after so many
    bytes; `status`: it answers with that error; `location`: it redirects to there.
    """

    daemon_threads = True
    content = CONTENT
    ranges = True
    cut: int | None = None
    status: int | None = None
    location: str | None = None

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


@pytest.mark.parametrize(
    "network", [name for name, one in PUBLISHED.items() if one.url]
)
def test_torchvision_urls(network):
    url = PUBLISHED[network].url
    assert re.fullmatch(
        r"https://download\.pytorch\.org/models/\w.*-[0-9a-f]{8}\.pth", url
    )


@pytest.mark.parametrize(
    "network", [name for name, one in PUBLISHED.items() if not one.url]
)
def test_heads_have_no_download_but_an_origin(tmp_path, network):
    with pytest.raises(WeightsError, match=r"no download: get .*github\.com.*--source"):
        download.fetch(network, tmp_path)


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
