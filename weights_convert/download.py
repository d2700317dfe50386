"""Downloads published weight files: https only, resumable, verified, atomic.

Of several processes that want the same file one downloads it, and the others wait.
"""

from __future__ import annotations

import contextlib
import hashlib
import http
import http.client
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any

from spips_jax.cache import unwritable
from spips_jax.files import locked
from spips_jax.progress import Bar
from spips_jax.weights import PUBLISHED, WeightsError

_CHUNK_SIZE = 1 << 20
_TIMEOUT_S = 30


def fetch(
    network: str, folder: pathlib.Path, *, mirror: str | None = None
) -> pathlib.Path:
    """Returns the weights file of `network` in `folder`, downloaded if missing.

    Args:
      network: one of `PUBLISHED`.
      folder: where it is kept, with the first digits of its SHA-256 in its name.
      mirror: a folder's address that has the file under its author's name.

    Raises:
      WeightsError: `network` has no download, or the download failed.
    """
    published = PUBLISHED[network]
    if not published.url:
        raise WeightsError(
            f"{network} has no download: get {published.origin} and give it as --source"
        )
    url, sha256 = published.url, published.sha256
    file = pathlib.PurePosixPath(urllib.parse.urlsplit(url).path)
    name = file.name
    if sha256[:8] not in name:
        name = f"{network}-{sha256[:16]}{file.suffix}"
    if mirror is not None:
        url = f"{mirror.rstrip('/')}/{file.name}"
    return download(url, folder, name=name)


def download(
    url: str, folder: pathlib.Path, *, name: str | None = None
) -> pathlib.Path:
    """Downloads `url` into `folder` and returns the file.

    A file that matches the digest in its name isn't downloaded again. A partial
    download is kept as `<name>.part`, and a later call resumes it.

    Args:
      url: https.
      folder: made if it is missing.
      name: the file's, with the first digits of its SHA-256 after a dash, as
        torchvision's do; by default the one in `url`.

    Raises:
      WeightsError: the folder can't be written, the server can't be reached, the
        connection breaks, or the digest differs.
    """
    _check_scheme(url)
    path = folder / (
        name or pathlib.PurePosixPath(urllib.parse.urlsplit(url).path).name
    )
    if _digest_error(path, path.name) is None:
        return path
    if unusable := unwritable(folder):
        raise WeightsError(
            f"{unusable}: set SPIPS_HOME to a folder that can be, or give --source"
        )
    try:
        with locked(path) as alone:
            # Another process may have finished it while this one waited.
            if _digest_error(path, path.name) is not None:
                with _part(path, alone=alone) as part:
                    _complete(url, part, path)
    except urllib.error.HTTPError as error:
        error.close()
        raise WeightsError(
            f"{url}: the server answers {error.code} {error.reason}; get the file "
            "elsewhere and give it as --source"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise WeightsError(
            f"{url}: {reason}; run it again to resume, or give the file as --source"
        ) from error
    return path


@contextlib.contextmanager
def _part(path: pathlib.Path, *, alone: bool) -> Iterator[pathlib.Path]:
    """The file to download to, which a failure leaves to resume as `<name>.part`.

    Without a lock each process has a file of its own, and one of them takes over what
    was there before.
    """
    part = path.with_name(f"{path.name}.part")
    if alone:
        yield part
        return
    own = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")
    with contextlib.suppress(FileNotFoundError):
        part.replace(own)
    try:
        yield own
    finally:
        with contextlib.suppress(FileNotFoundError):  # it is complete, and has its name
            own.replace(part)


def _complete(url: str, part: pathlib.Path, path: pathlib.Path) -> None:
    """Downloads what `part` lacks, checks it and gives it its name."""
    # An interruption just before the renaming leaves a complete part file.
    if _digest_error(part, path.name) is not None:
        _receive(url, part)
    if problem := _digest_error(part, path.name):
        part.unlink()
        raise WeightsError(f"{url}: {problem}; the download was removed, run it again")
    part.replace(path)


def _check_scheme(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    loopback = parts.hostname in ("127.0.0.1", "localhost")
    if parts.scheme != "https" and not (parts.scheme == "http" and loopback):
        raise WeightsError(f"{url}: refused, weights are downloaded over https only")


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but only to https."""

    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _digest_error(path: pathlib.Path, name: str) -> str | None:
    """Why the file isn't the one whose digest is in `name`; None if it is."""
    if not path.is_file():
        return "no such file"
    match = re.search(r"-([0-9a-f]{8,64})\.", name)
    if match is None:
        raise ValueError(f"{name} contains no digest")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest.startswith(match[1]):
        return None
    return f"its SHA-256 is {digest}, which should begin with {match[1]}"


def _receive(url: str, part: pathlib.Path) -> None:
    """Downloads `url` to `part`, resuming where an earlier call stopped."""
    start = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={start}-"} if start else {}
    opener = urllib.request.build_opener(_HttpsRedirects)
    request = urllib.request.Request(url, headers=headers)
    try:
        response = opener.open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        # The server's file ends at or before `start`, and the part isn't that file.
        error.close()
        part.unlink()
        return _receive(url, part)
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            start = 0  # the server ignores Range and sends the whole file
        elif not response.headers.get("Content-Range", "").startswith(
            f"bytes {start}-"
        ):
            raise OSError(f"asked for bytes {start}-, got {dict(response.headers)}")
        total = None if response.length is None else start + response.length
        with (
            part.open("r+b" if start else "wb") as file,
            Bar("", total=total, done=start, in_bytes=True, lines=True) as bar,
        ):
            bar.message(f"downloading {url}")
            file.seek(start)
            while chunk := response.read(_CHUNK_SIZE):
                file.write(chunk)
                bar.advance(len(chunk))
            received = file.tell()
    if total is not None and received < total:
        raise OSError(f"the connection broke off after {received} of {total} bytes")
