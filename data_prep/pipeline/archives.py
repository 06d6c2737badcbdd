"""Archives from the internet, unpacked with suspicion: files and folders only, inside the target only, bounded.

Nothing is written under a name that was not checked, links and devices are refused, and what is unpacked is counted
while it streams, whatever the archive says about its sizes. The target appears whole or not at all.
"""

import bz2
import gzip
import json
import lzma
import os
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from tqdm import tqdm

from data_prep.pipeline.produce import checksum_of
from vidkd.errors import DataError

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".rar")
MARKER = ".unpacked_from.json"
DEPTH = 2  # HMDB51 is rar in rar
BAD = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError, NotImplementedError)
BAD += (UnicodeDecodeError,)  # a .zip whose names are not in the encoding that it says they are
BYTES = range(0xDC80, 0xDD00)  # how Python keeps bytes of a name that are not UTF-8: nothing but strange letters

NO_UNRAR = (
    "no program to unpack .rar is installed (unrar, unar, 7z or bsdtar; for example apt install unar): install one, "
    "or unpack it yourself"
)


@dataclass(frozen=True)
class Limits:
    """What an archive, and all archives in it together, may come to."""

    entries: int = 2_000_000
    ratio: int = 100  # unpacked to packed: videos do not shrink, text shrinks tenfold
    slack_bytes: int = 64 << 20  # however small the archive
    name_bytes: int = 1024


@dataclass(frozen=True, slots=True)
class Member:
    name: str
    is_folder: bool
    special: str  # "a link", ...: what else it is than a file or a folder
    content: Any  # () -> a file to read from


class Account:
    """What has been unpacked so far, against the limits."""

    def __init__(self, archive: Path, limits: Limits) -> None:
        self.archive, self.limits = archive, limits
        self.left_bytes = limits.slack_bytes + limits.ratio * archive.stat().st_size
        self.left_entries = limits.entries

    def enter(self, name: str) -> None:
        self.left_entries -= 1
        if self.left_entries < 0:
            self.refuse(name, f"the archive has more than {self.limits.entries} entries")

    def write(self, name: str, count: int) -> None:
        self.left_bytes -= count
        if self.left_bytes < 0:
            self.refuse(name, f"it unpacks to more than {self.limits.ratio} times its size: a bomb")

    def refuse(self, name: str, why: str) -> None:
        raise DataError(f"{self.archive}: {why}; at {name!r}. Nothing of it was kept")


def is_archive(path: Path) -> bool:
    return path.name.lower().endswith(SUFFIXES) and path.is_file()


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> dict[str, Any]:
    """Unpack into the new folder `target`, archives inside too; what it was unpacked from. Once: again does nothing."""
    status = archive.stat()
    origin = {"archive": archive.name, "bytes": status.st_size, "changed_ns": status.st_mtime_ns}
    if target.exists():
        known = origin_of(target)
        if {key: known.get(key) for key in origin} != origin:
            raise DataError(f"{target}: is there already, but was not unpacked from {archive}; remove it first")
        return known
    partial = target.with_name(f".tmp-{target.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        account = Account(archive, limits or Limits())
        with tqdm(unit="B", unit_scale=True, disable=None, desc=f"unpacking {archive.name}") as bar:
            _unpack_one(archive, partial, account, bar, DEPTH)
        origin["checksum"] = checksum_of(archive)
        (partial / MARKER).write_text(json.dumps(origin), encoding="utf-8")
        partial.rename(target)
    except OSError as error:
        raise DataError(f"{target}: cannot unpack {archive} into it ({error.strerror or error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return origin


def origin_of(folder: Path) -> dict[str, Any]:
    """What the folder was unpacked from; nothing if it was not."""
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _unpack_one(archive: Path, folder: Path, account: Account, bar: Any, depth: int) -> None:
    inner: list[Path] = []
    try:
        for member in _members(archive):
            account.enter(member.name)
            path = _place(folder, member, account)
            if member.is_folder:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(member, path, account, bar)
            if is_archive(path):
                inner.append(path)
    except BAD + _rar_errors() as error:
        if type(error).__name__ == "RarCannotExec":
            raise DataError(f"{archive}: {NO_UNRAR}") from None
        reason = str(error) or type(error).__name__
        raise DataError(f"{archive}: damaged, cut short or locked ({reason}). Nothing of it was kept") from None
    for path in inner if depth > 1 else []:
        into = path.with_name(path.name + ".unpacked")
        into.mkdir()
        _unpack_one(path, into, account, bar, depth - 1)
        path.unlink()


def _place(folder: Path, member: Member, account: Account) -> Path:
    """Where the member goes; DataError unless its name is a plain relative path."""
    name = member.name
    if member.special:
        account.refuse(name, f"it holds {member.special}")
    parts = PurePosixPath(name).parts
    strange = any(unicodedata.category(c) in ("Cc", "Cs") and ord(c) not in BYTES for c in name)
    odd = strange or "\\" in name or (len(name) > 1 and name[1] == ":")
    if not parts or ".." in parts or name.startswith("/") or odd or len(os.fsencode(name)) > account.limits.name_bytes:
        account.refuse(name[:200], "it holds a name that could lead out of the folder")
    path = folder.joinpath(*parts)
    if path.name == MARKER:
        account.refuse(name, "it holds a name that is reserved")
    return path


def _write(member: Member, path: Path, account: Account, bar: Any) -> None:
    if path.exists():  # also where only a file system that ignores case thinks so
        account.refuse(member.name, "it holds two files of one name")
    with path.open("xb") as target, member.content() as source:
        while block := source.read(1 << 20):
            account.write(member.name, len(block))
            target.write(block)
            bar.update(len(block))


def _members(archive: Path) -> Iterator[Member]:
    name = archive.name.lower()
    if name.endswith(".zip"):
        return _zip_members(archive)
    return _rar_members(archive) if name.endswith(".rar") else _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = info.external_attr >> 16
            special = "" if stat.S_IFMT(mode) in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or a device"
            is_folder = info.orig_filename.endswith("/")
            yield Member(info.orig_filename, is_folder, special, lambda info=info: file.open(info))


def _tar_members(archive: Path) -> Iterator[Member]:
    opener = {".gz": gzip.open, ".tgz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(archive.suffix.lower(), open)
    with opener(archive, "rb") as packed:
        whole: Any = Watched(packed)
        # tarfile's own decompression takes a cut for the end, so it gets the plain tar.
        with tarfile.open(fileobj=whole, mode="r|") as file:
            for info in file:
                special = "" if info.isreg() or info.isdir() else "a link or a device"
                yield Member(info.name, info.isdir(), special, lambda info=info: _tar_content(file, info))
                file.members = []  # pyright: ignore[reportAttributeAccessIssue]  it would remember them all
        whole.finish()


class Watched:
    """A plain tar being read: it must end as a tar does, with zeros."""

    def __init__(self, file: Any) -> None:
        self.file, self.last = file, b""

    def read(self, count: int) -> bytes:
        block = self.file.read(count)
        self.last = (self.last + block)[-tarfile.BLOCKSIZE :]
        return block

    def finish(self) -> None:
        for _ in range(64):  # what follows the end is padding, and short
            if not self.read(1 << 20):
                break
        if len(self.last) < tarfile.BLOCKSIZE or any(self.last):
            raise EOFError("its end is missing")


def _tar_content(file: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = file.extractfile(info)
    if content is None:
        raise EOFError(f"{info.name!r} has no content")
    return content


def _rar_members(archive: Path) -> Iterator[Member]:
    if not _rar_errors():
        raise DataError(f"{archive}: to unpack .rar, pip install 'vidkd[rar]', or unpack it yourself")
    import rarfile  # pyright: ignore[reportMissingImports]

    with rarfile.RarFile(str(archive), errors="strict") as file:
        if file.needs_password():  # or it could pass for an empty one
            raise rarfile.PasswordRequired("it asks for a password")
        for info in file.infolist():
            special = "" if info.is_file() or info.is_dir() else "a link or a device"
            yield Member(info.filename, info.is_dir(), special, lambda info=info: file.open(info))


def _rar_errors() -> tuple[type[Exception], ...]:
    """What rarfile raises; nothing where it is not installed."""
    try:
        import rarfile  # pyright: ignore[reportMissingImports]
    except ImportError:
        return ()
    return (rarfile.Error,)
