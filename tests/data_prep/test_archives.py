"""What the internet may send: nothing gets out of the target, nothing grows without bound, half is nothing."""

import base64
import io
import json
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest

from data_prep.pipeline.archives import Limits, unpack
from vidkd.data import index
from vidkd.errors import DataError

# Two texts of 2048 letters, compressed by WinRAR: RAR 4 (solid) and RAR 5. From the tests of rarfile 4.2 (ISC licence).
COMPRESSED = {
    "rar3-solid": "UmFyIRoHADvQcwgADQAAAAAAAAArNHSAkCwAXAAAAAAIAAADoua3xbBmzD4dMwoApIEAAHN0ZXN0MS50eHQAwBEMzP6MnrD+MYGr"
    "rLG7QHeoCmTWSzeDwQe8AeCFku77th0ACCAACIjpeAzSDAdhOkF4S7Nun1IK2sonQLrnC2SKYnH7uACRnlAv2FX/+sZY6+vE14h+VJaHH03s2RZ0kJ"
    "AsAA4AAAAACAAAA6Lmt8WwZsw+HTMKAKSBAABzdGVzdDIudHh0AMCxIACIB+vyCmn6/JTe0MQ9ewBABwA=",
    "rar5-times": "UmFyIRoHAQDz4YLrCwEFBwAGAQGAgIAAWZ3nQygCAwu3AASAEKSDAqLmt8WAAwEKc3Rlc3QxLnR4dAoDC52M9E0EeEFXxKo0RD"
    "Qk+jLrR/rETX295gWAggqMwQMqlcoim1Aak91A/ABAAgDUYAQ27RX5t1SDKmROzXwf4B13VlEDBQQA",
}
HOSTILE = ["../evil", "a/../../evil", "/tmp/evil", "C:/evil", "..\\evil", "a\nb", "a\x00b", "\x1b[31m", "x" * 2000]


def write_zip(path: Path, *entries: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in entries:
            info = zipfile.ZipInfo("placeholder")
            info.filename = info.orig_filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, content)
    return path


def write_tar(path: Path, *entries: tuple[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def write_rar(path: Path, *entries: tuple[str, bytes], flags: int = 0) -> Path:
    """RAR 4 without compression, which rarfile reads without a program."""

    def block(kind: int, flags: int, body: bytes) -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(body)) + body
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head

    parts = [b"Rar!\x1a\x07\x00", block(0x73, flags, bytes(6))]
    for name, content in entries:
        raw = name.encode()
        fields = (len(content), len(content), 3, zlib.crc32(content), 0x5A000000, 20, 0x30, len(raw), 0o100644)
        parts += [block(0x74, 0x8000, struct.pack("<IIBIIBBHI", *fields) + raw), content]
    path.write_bytes(b"".join(parts) + block(0x7B, 0, b""))
    return path


WRITE = {"a.zip": write_zip, "a.tar": write_tar, "a.rar": write_rar}
SMALL = Limits(entries=100, ratio=20, slack_bytes=100_000)


def refused(archive: Path, target: Path, limits: Limits = SMALL) -> str:
    """The message; and nothing was left, neither in the target nor beside it."""
    before = {p: p.stat().st_size for p in archive.parent.parent.rglob("*")}
    with pytest.raises(DataError) as error:
        unpack(archive, target, limits)
    assert {p: p.stat().st_size for p in archive.parent.parent.rglob("*")} == before
    return str(error.value)


@pytest.fixture
def box(tmp_path) -> Path:
    (tmp_path / "box").mkdir()
    return tmp_path / "box"


@pytest.mark.parametrize("kind", sorted(WRITE))
def test_what_is_in_it_comes_out(box, kind):
    pytest.importorskip("rarfile")
    inner = WRITE[kind](box / f"inner{kind[1:]}", ("c/d.txt", b"deep"))
    archive = WRITE[kind](box / kind, ("a/b.txt", b"one"), ("näme ☃", b""), (inner.name, inner.read_bytes()))
    origin = unpack(archive, box / "out", SMALL)
    assert origin["checksum"].startswith("sha256:") and origin["archive"] == kind
    assert (box / "out/a/b.txt").read_bytes() == b"one" and (box / "out/näme ☃").read_bytes() == b""
    assert (box / f"out/{inner.name}.unpacked/c/d.txt").read_bytes() == b"deep" and not (
        box / "out" / inner.name
    ).exists()
    assert unpack(archive, box / "out", SMALL) == origin
    WRITE[kind](archive, ("other", b"content"))
    with pytest.raises(DataError, match="was not unpacked from"):
        unpack(archive, box / "out", SMALL)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("kind", ["a.zip", "a.tar"])
def test_names_that_lead_out(box, kind, name):
    archive = WRITE[kind](box / kind, ("good", b"1"), (name, b"2"))
    if kind == "a.tar" and "\x00" in name:
        return  # tar ends a name there
    assert "lead out of the folder" in refused(archive, box / "out")


def test_names_that_are_not_utf8(box):
    """A .tar may hold them, and they come out as they are; a .zip that calls them UTF-8 cannot be read."""
    archive = write_tar(box / "a.tar", (os.fsdecode(b"a/\xe9.mp4"), b"1"), ("good", b"2"))
    unpack(archive, box / "out", SMALL)
    assert sorted(os.listdir(os.fsencode(box / "out/a"))) == [b"\xe9.mp4"]
    archive = write_zip(box / "a.zip", ("é.mp4", b"1"), ("good", b"2"))
    archive.write_bytes(archive.read_bytes().replace("é".encode(), b"\xe9\xe9"))
    assert "damaged, cut short or locked ('utf-8' codec" in refused(archive, box / "out2")


def test_rar_names_that_lead_out(box):
    pytest.importorskip("rarfile")
    archive = write_rar(box / "a.rar", ("../evil", b"2"), ("/evil", b"3"))
    assert "lead out" in refused(archive, box / "out")
    assert {p.name for p in box.parent.iterdir()} == {"box"} and not Path("/evil").exists()


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_rar(box, name):
    """Through a program (unrar, unar, 7z, bsdtar), or told which one to install."""
    rarfile = pytest.importorskip("rarfile")
    archive = box / f"{name}.rar"
    archive.write_bytes(base64.b64decode(COMPRESSED[name]))
    try:
        rarfile.tool_setup()
    except rarfile.RarCannotExec:
        assert "apt install unar" in refused(archive, box / "out")
        return
    unpack(archive, box / "out", SMALL)
    for path in (box / "out").glob("stest*.txt"):
        assert path.read_bytes()[:12] == b"000\n001\n002\n" and path.stat().st_size == 2048
    assert len(list((box / "out").glob("stest*.txt"))) == (2 if name == "rar3-solid" else 1)


def test_a_locked_rar_is_not_an_empty_one(box):
    """With its names encrypted too, it looks as if there were nothing in it."""
    pytest.importorskip("rarfile")
    assert "password" in refused(write_rar(box / "a.rar", ("x", b"1"), flags=0x80), box / "out")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tar(box, kind):
    archive = box / "a.tar"
    with tarfile.open(archive, "w") as file:
        info = tarfile.TarInfo("way")
        info.type, info.linkname = kind, "/etc"
        file.addfile(info)
        file.addfile(tarfile.TarInfo("way/passwd"))
    assert "'way'" in refused(archive, box / "out")


def test_links_in_zip(box):
    with zipfile.ZipFile(box / "a.zip", "w") as file:
        info = zipfile.ZipInfo("way")
        info.external_attr = 0o120777 << 16
        file.writestr(info, "/etc")
    assert "a link or a device" in refused(box / "a.zip", box / "out")


def test_bombs(box):
    """Counted while it streams: what the archive says of its own sizes does not matter, nor how deep it is buried."""
    zeros = bytes(3_000_000)
    assert "a bomb" in refused(write_zip(box / "a.zip", ("big", zeros)), box / "out")
    assert "a bomb" in refused(write_tar(box / "a.tar.gz", ("big", zeros), mode="w:gz"), box / "out")
    inner = write_zip(box / "inner.zip", ("big", zeros)).read_bytes()
    assert "a bomb" in refused(write_zip(box / "b.zip", *((f"{i}.zip", inner) for i in range(3))), box / "out")
    many = write_zip(box / "c.zip", *((f"{i}", b"") for i in range(101)))
    assert "more than 100 entries" in refused(many, box / "out")


@pytest.mark.parametrize("kind", [*sorted(WRITE), "a.tar.gz", "a.tar.xz"])
def test_cut_archives(box, kind):
    pytest.importorskip("rarfile")
    entries = [(f"{i}", bytes([i]) * 2048) for i in range(20)]
    if kind in WRITE:
        archive = WRITE[kind](box / kind, *entries)
    else:
        archive = write_tar(box / kind, *entries, mode=f"w:{kind[-2:]}")
    content = archive.read_bytes()
    for share in (0.3, 0.7):
        end = int(len(content) * share) // 512 * 512 if kind == "a.tar" else int(len(content) * share)
        archive.write_bytes(content[:end])
        assert "damaged, cut short" in refused(archive, box / "out")


@pytest.mark.parametrize("kind", ["a.zip", "a.tar", "a.rar"])
def test_not_an_archive(box, kind):
    pytest.importorskip("rarfile")
    (box / kind).write_bytes(b"<html>404</html>" * 100)
    refused(box / kind, box / "out")


def test_two_files_of_one_name(box):
    assert "two files of one name" in refused(write_tar(box / "a.tar", ("x", b"1"), ("x", b"2")), box / "out")
    refused(write_tar(box / "b.tar", ("x", b"1"), ("x/y", b"2")), box / "out")


def test_a_data_set_from_archives(tmp_path, make_video, data_prep):
    """HMDB51 as it is published, archives in an archive, and its lists in another."""
    video = make_video(tmp_path / "v.avi", "avi", frames=3).read_bytes()
    names = ["x_wave_u_cm_np1_fr_med_0", "y_wave_u_cm_np1_fr_med_0"]
    inner = write_zip(tmp_path / "wave.zip", *((f"wave/{name}.avi", video) for name in names)).read_bytes()
    root = write_zip(tmp_path / "hmdb51_org.zip", ("wave.zip", inner))
    lists = [(f"s/wave_test_split{n}.txt", f"{names[0]}.avi 1\n{names[1]}.avi 2\n".encode()) for n in (1, 2, 3)]
    words = ["hmdb51", "--root", root, "--annotations", write_zip(tmp_path / "s.zip", *lists)]
    status, said = data_prep(*words, "--out", tmp_path / "out")
    assert status == 0, said
    data = index.read(tmp_path / "out")
    assert [len(data.part("split1", part)) for part in ("train", "test")] == [1, 1]
    provenance = json.loads((tmp_path / "out/provenance.json").read_text())
    assert provenance["settings"]["unpacked_from"]["archive"] == "hmdb51_org.zip"
