"""Downloads against a server of this machine, over https: whole, checked, resumed; never anything else."""

import hashlib
import http.server
import ssl
import subprocess
import threading
from pathlib import Path

import pytest

from data_prep import hmdb51, ucf101
from data_prep.pipeline import download as module
from data_prep.pipeline.download import Download, download
from vidkd.errors import DataError

CONTENT = bytes(range(256)) * 4096  # 1 MB


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT; what the path says goes wrong on the way."""

    asked: list[str | None] = []

    def do_GET(self):
        Handler.asked.append(self.headers["Range"])
        start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if "redirect" in self.path:
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.1:9/x")
            self.end_headers()
            return
        if "gone" in self.path:
            self.send_error(404)
            return
        if "whole" in self.path:  # a server that knows no ranges
            start = 0
        body = CONTENT[start:]
        if "drops" in self.path:  # it promises all, and sends a part
            body = body[:300_000]
        if "changed" in self.path:
            body = body[:-1] + b"!"
        if "endless" in self.path:
            body += CONTENT * 8
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start if "endless" not in self.path else len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """(address, whom to trust) of a server with a certificate of its own."""
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    try:
        files = ["-keyout", str(key), "-out", str(certificate), "-days", "1"]
        subprocess.run([*make, *files, *subject], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl cannot make a certificate here")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving.socket = context.wrap_socket(serving.socket, server_side=True)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    Handler.asked = []
    yield f"https://localhost:{serving.server_port}", ssl.create_default_context(cafile=str(certificate))
    serving.shutdown()
    serving.server_close()


def pinned(url: str, content: bytes = CONTENT) -> Download:
    return Download(url, len(content), f"sha256:{hashlib.sha256(content).hexdigest()}")


def test_fetched_once_and_checked(server, tmp_path):
    address, trust = server
    path = download(pinned(f"{address}/a.zip"), tmp_path / "new", trust)
    assert path == tmp_path / "new" / "a.zip" and path.read_bytes() == CONTENT
    assert download(pinned(f"{address}/a.zip"), tmp_path / "new", trust) == path
    assert Handler.asked == [None] and [p.name for p in path.parent.iterdir()] == ["a.zip"]
    path.write_bytes(b"short")
    with pytest.raises(DataError, match=r"5 bytes instead of 1048576; remove it"):
        download(pinned(f"{address}/a.zip"), tmp_path / "new", trust)


def test_a_connection_that_drops_is_taken_up_again(server, tmp_path):
    address, trust = server
    assert download(pinned(f"{address}/drops.zip"), tmp_path, trust).read_bytes() == CONTENT
    assert Handler.asked == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


@pytest.mark.parametrize("name", ["a.zip", "whole.zip"])
def test_a_killed_download_goes_on(server, tmp_path, name):
    address, trust = server
    (tmp_path / f"{name}.part").write_bytes(CONTENT[:1000])
    assert download(pinned(f"{address}/{name}"), tmp_path, trust).read_bytes() == CONTENT
    assert Handler.asked == ["bytes=1000-"] and not (tmp_path / f"{name}.part").exists()


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("changed.zip", "is not the file it was"),
        ("endless.zip", "is not the file it was"),
        ("gone.zip", "404"),
        ("redirect.zip", "not https"),
    ],
)
def test_what_is_refused(server, tmp_path, name, told):
    address, trust = server
    with pytest.raises(DataError, match=told):
        download(pinned(f"{address}/{name}"), tmp_path, trust)
    left = sum(path.stat().st_size for path in tmp_path.glob(f"{name}*"))
    assert left == 0


def test_only_https_and_only_with_a_certificate(server, tmp_path):
    address, _ = server
    with pytest.raises(DataError, match="CERTIFICATE_VERIFY_FAILED"):
        download(pinned(f"{address}/a.zip"), tmp_path)
    with pytest.raises(DataError, match="only https"):
        download(pinned(f"{address.replace('https', 'http')}/a.zip"), tmp_path)
    assert Handler.asked == []


def test_a_silent_server_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT_S", 0.2)
    with pytest.raises(DataError, match="goes on from here"):
        download(pinned("https://localhost:9/a.zip"), tmp_path)


def test_the_command(tmp_path, monkeypatch, data_prep):
    """ucf101 fetches both archives into --root; what needs a person says what to fetch and where to put it."""
    asked: list[tuple[str, Path]] = []

    def fetch(what: Download, folder: Path) -> Path:
        asked.append((what.name, folder))
        raise DataError("stop here")

    monkeypatch.setattr("data_prep.pipeline.official.download", fetch)
    words = ["--root", tmp_path / "archives", "--out", tmp_path / "out", "--download"]
    status, said = data_prep("ucf101", *words)
    assert status == 2 and "stop here" in said and asked == [("UCF101_videos.zip", tmp_path / "archives")]
    for name, address in (("hmdb51", "serre.lab.brown.edu"), ("jhmdb", "jhmdb.is.tue"), ("ssv2", "qualcomm.com")):
        status, said = data_prep(name, *words)
        assert status == 2 and address in said and "--root" in said and said.startswith("error: --download")
    assert not (tmp_path / "out").exists() and not hmdb51.SOURCE.archives
    assert {archive.name for _, archive in ucf101.SOURCE.archives} == {
        "UCF101_videos.zip", "UCF101TrainTestSplits-RecognitionTask.zip"
    }  # fmt: skip
