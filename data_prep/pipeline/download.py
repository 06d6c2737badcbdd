"""Files over https, of a known size and checksum: whole or not at all, and an interrupted one goes on where it was."""

import http.client
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from data_prep.pipeline.produce import checksum_of
from vidkd.errors import DataError

TIMEOUT_S = 60.0
TRIES = 5  # in a row without a single byte
BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Download:
    """A file that never changes."""

    url: str
    bytes: int
    checksum: str  # "sha256:<hex>"

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if not newurl.startswith("https://"):
            raise urllib.error.URLError(f"it redirects to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(what: Download, folder: Path, trust: ssl.SSLContext | None = None) -> Path:
    """The file in `folder`, fetched unless it is there. DataError if that fails or it is not what it should be.

    `trust` says whose certificates to believe (default: the system's).
    """
    target = folder / what.name
    partial = folder / f"{what.name}.part"
    if not what.url.startswith("https://"):
        raise DataError(f"{what.url}: only https is fetched")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            _fetch(what, partial, trust or ssl.create_default_context())
            _check(what, partial)
            partial.replace(target)
        elif target.stat().st_size != what.bytes:
            raise DataError(f"{target}: has {target.stat().st_size} bytes instead of {what.bytes}; remove it")
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error})") from None
    return target


def _fetch(what: Download, partial: Path, trust: ssl.SSLContext) -> None:
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trust), _HttpsOnly)
    failures = 0
    with partial.open("ab") as file, tqdm(total=what.bytes, unit="B", unit_scale=True, disable=None) as bar:
        bar.set_description(what.name)
        while (have := file.tell()) < what.bytes:
            bar.update(have - bar.n)
            try:
                _append(what, file, opener)
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                failures = 0 if file.tell() > have else failures + 1
                certificate = isinstance(getattr(error, "reason", None), ssl.SSLCertVerificationError)
                if certificate or failures == TRIES or getattr(error, "code", 500) < 500:
                    raise DataError(f"{what.url}: {error}; the same command goes on from here") from None
            else:
                failures = 0 if file.tell() > have else failures + 1
                if failures == TRIES:
                    raise DataError(f"{what.url}: the server sends nothing after {have} of {what.bytes} bytes")


def _append(what: Download, file: IO[bytes], opener: urllib.request.OpenerDirector) -> None:
    """What comes in one answer; an answer from the start where the server does not continue."""
    have = file.tell()
    request = urllib.request.Request(what.url, headers={"Range": f"bytes={have}-"} if have else {})
    with opener.open(request, timeout=TIMEOUT_S) as answer:
        if have and answer.status != 206:
            file.truncate(0)
            file.seek(0)
        while block := answer.read(BLOCK):
            file.write(block)
            if file.tell() > what.bytes:
                break  # another file: its checksum will say so, and no more of it is needed


def _check(what: Download, partial: Path) -> None:
    found = checksum_of(partial)
    if partial.stat().st_size != what.bytes or found != what.checksum:
        size = partial.stat().st_size
        partial.unlink()
        raise DataError(
            f"{what.url}: is not the file it was: {size} bytes with {found} instead of {what.bytes} with "
            f"{what.checksum}. Nothing of it was kept"
        )
