"""Fetch data sets: `python -m detr_mini.data.download coco-val|coco-train|bccd [--to FOLDER] [--yes]`.

Before it starts, it says where the data comes from, where it goes, and how much space that takes and is free.

What is checked:

- Every archive against its published size and digest. COCO's digests are the MD5 sums in general use: they
  find damage, but they do not keep out a forger. BCCD's is the SHA-256 sum that TensorFlow Datasets
  publishes for it.
- An archive without a published digest, or fetched with `--trust`, has its SHA-256 sum written beside it on
  the first run (`NAME.sha256`). Later runs must get the same.
- Every file unpacked against the checksum (CRC-32) inside its archive.
- That no name in an archive is absolute, climbs out with `..`, or is a link. One such name, and nothing is
  unpacked.

A download that was cut continues where it stopped, in the same run or the next. Files appear under their
final name only when they are whole. This file does not import torch.
"""

import argparse
import contextlib
import errno
import hashlib
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path

from tqdm import tqdm

from detr_mini.data.archives import (
    CHUNK,
    DownloadError,
    check_name,
    free_space,
    readable,
    require_space,
    size_of,
    unpack_matching,
)
from detr_mini.data.bccd import unpack_bccd
from detr_mini.files import atomic, make_folder

try:
    import fcntl
except ImportError:  # Windows has no such locks; two downloads at once are then up to the user
    fcntl = None

TIMEOUT = 30  # seconds without a byte
TRIES = 5  # in a row without any progress
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, UnicodeDecodeError)
ADVICE = "run this again, or accept the file as it is with --trust"
NETWORK = (urllib.error.URLError, ConnectionError, TimeoutError, HTTPException, ssl.SSLError)


@dataclass(frozen=True)
class Archive:
    """One zip file on the network.

    size: bytes. digest: "md5:..." or "sha256:..." as published, or None; size is then only an estimate.
    unpack: writes what is wanted of the open archive into a folder and returns the paths. unpacked: bytes
    that takes, about.
    """

    url: str
    name: str
    size: int
    digest: str | None
    unpack: Callable[[zipfile.ZipFile, Path], list[Path]]
    unpacked: int


@dataclass(frozen=True)
class Source:
    """A data set: what to say about it, the folder it goes to unless told otherwise, and its archives."""

    title: str
    terms: str
    folder: Path
    archives: tuple[Archive, ...]


COCO = "http://images.cocodataset.org"  # not https: its certificate is for another name
COCO_TERMS = "annotations CC BY 4.0; photographs under their Flickr terms, see cocodataset.org/#termsofuse"
COCO_ANNOTATIONS = Archive(
    f"{COCO}/annotations/annotations_trainval2017.zip", "annotations_trainval2017.zip",
    252_907_541, "md5:f4bbac642086de4f52a3fdda2de5fa2c",
    partial(unpack_matching, patterns=("annotations/instances_*2017.json",)), 490_000_000,
)
COCO_VAL = Archive(
    f"{COCO}/zips/val2017.zip", "val2017.zip",
    815_585_330, "md5:442b8da7639aecaf257c1dceb8ba8c80",
    partial(unpack_matching, patterns=("val2017/*.jpg",)), 840_000_000,
)
COCO_TRAIN = Archive(
    f"{COCO}/zips/train2017.zip", "train2017.zip",
    19_336_861_798, "md5:cced6f7f71b7629ddf16f17bbcfab6b2",
    partial(unpack_matching, patterns=("train2017/*.jpg",)), 19_700_000_000,
)
BCCD = Archive(
    "https://github.com/Shenggan/BCCD_Dataset/archive/v1.0.zip", "bccd.zip",
    7_875_205, "sha256:97af5cc16d14d293fcb3c82a8f66e49b0339a8d0abd8e9508e0feeb4911caa1f",
    unpack_bccd, 8_000_000,
)
SOURCES = {
    "coco-val": Source(
        "COCO 2017: 5,000 validation images, annotations of both splits", COCO_TERMS,
        Path("data/coco"), (COCO_ANNOTATIONS, COCO_VAL)),
    "coco-train": Source(
        "COCO 2017: 118,287 training images, annotations of both splits", COCO_TERMS,
        Path("data/coco"), (COCO_ANNOTATIONS, COCO_TRAIN)),
    "bccd": Source(
        "BCCD: 292 microscope images of blood cells, three classes", "MIT licence",
        Path("data/bccd"), (BCCD,)),
}


# --- fetching one archive

def fetch(archive: Archive, folder: Path, progress: bool = True, pause: float = 2.0) -> Path:
    """Download an archive into `folder`, or check the one that is there already. Returns its path.

    pause: seconds between tries. Raises DownloadError when there is no network, or for other content than
    the published one.
    """
    target, part = folder / archive.name, folder / f"{archive.name}.part"
    if target.is_file():
        verify(target, archive, folder)
        return target
    _receive_all(archive, part, progress, pause)
    try:
        verify(part, archive, folder)
    except DownloadError:
        _discard(part)  # or every later run would meet the same bytes
        raise
    os.replace(part, target)
    _discard(part)
    return target


def _receive_all(archive: Archive, part: Path, progress: bool, pause: float) -> None:
    """Fill `part`, going on after cuts as long as tries bring something. The first try must."""
    failures, any_progress = 0, False
    while True:
        before = size_of(part)
        try:
            return _receive(archive, part, progress)
        except urllib.error.HTTPError as error:
            busy = error.code >= 500 or error.code == 429
            advice = "try again later" if busy else "the file may have moved"
            raise DownloadError(f"{archive.url} answered {error.code} {error.reason}; {advice}") from None
        except NETWORK as error:
            progressed = size_of(part) > before
            any_progress |= progressed
            failures = 0 if progressed else failures + 1
            if not any_progress or failures >= TRIES:
                raise DownloadError(_unreachable(archive, part, error)) from None
            time.sleep(pause)


def _unreachable(archive: Archive, part: Path, error: Exception) -> str:
    """One line for a broken or missing connection."""
    reason = getattr(error, "reason", None) or str(error) or type(error).__name__
    if have := size_of(part):
        return (f"no connection to {archive.url} ({reason}); {readable(have)} are here already: "
                "run the same command again to continue")
    return (f"no connection to {archive.url} ({reason}); check the network, or fetch the file elsewhere, "
            f"put it at {part.with_suffix('').absolute()} and run this again")


def _version_file(part: Path) -> Path:
    """Where the server's mark of the version in `part` is kept."""
    return part.with_name(f"{part.name}.version")


def _discard(part: Path) -> None:
    """Remove a partial download and the mark of its version."""
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)


def _request(url: str, part: Path) -> urllib.request.Request:
    """Ask for the rest of `part`; for the whole if the server's file has changed since (If-Range)."""
    headers = {"User-Agent": "detr_mini"}
    if have := size_of(part):
        headers["Range"] = f"bytes={have}-"
        if _version_file(part).is_file():
            headers["If-Range"] = _version_file(part).read_text()
    return urllib.request.Request(url, headers=headers)


def _receive(archive: Archive, part: Path, progress: bool) -> None:
    """One request: append to `part`, or start over when the server does not continue where we stopped."""
    have = size_of(part)
    try:
        response = urllib.request.urlopen(_request(archive.url, part), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # "range not satisfiable": we asked for what lies past the end
            raise
        if error.headers.get("Content-Range") == f"bytes */{have}":
            return
        _discard(part)
        return _receive(archive, part, progress)
    with response:
        start, total = _extent(response, have)
        if archive.digest and total not in (None, archive.size):
            what = f"{archive.url} has {total:,} bytes, published are {archive.size:,}"
            raise DownloadError(f"{what}; {ADVICE}")
        if start == 0:
            _remember_version(response, part)
        _append(response, part, start, total, archive.name, progress)
    if total is not None and size_of(part) < total:
        raise ConnectionError(f"closed after {size_of(part):,} of {total:,} bytes")


def _extent(response: HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the body of a response starts in the file, and the length of the file if the server tells."""
    if response.status != 206:
        length = response.headers.get("Content-Length")
        return 0, None if length is None else int(length)
    sent = response.headers.get("Content-Range", "")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", sent)
    if not found or int(found[1]) != have:
        raise HTTPException(f"asked for bytes from {have}, was sent {sent!r}")
    return have, None if found[2] == "*" else int(found[2])


def _remember_version(response: HTTPResponse, part: Path) -> None:
    """Keep the server's strong mark of this version beside `part`, for If-Range."""
    mark = response.headers.get("ETag", "")
    if not mark or mark.startswith("W/"):
        mark = response.headers.get("Last-Modified", "")
    _discard(part)
    if mark:
        _version_file(part).write_text(mark)


def _append(response: HTTPResponse, part: Path, start: int, total: int | None, name: str, show: bool) -> None:
    """Write the body of a response behind the first `start` bytes of `part`."""
    bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=not show)
    with bar, open(part, "ab" if start else "wb") as file:
        while chunk := response.read(CHUNK):
            file.write(chunk)
            bar.update(len(chunk))


# --- checking


def digest_of(path: Path, algorithm: str) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def verify(path: Path, archive: Archive, folder: Path) -> None:
    """Check size and digest of a downloaded archive; DownloadError says what differs.

    Without a published digest, against the SHA-256 sum that the first download recorded in `folder`; where
    there is none yet, record it.
    """
    if archive.digest is None:
        return _verify_recorded(path, folder / f"{archive.name}.sha256")
    algorithm, wanted = archive.digest.split(":")
    if size_of(path) != archive.size:
        found, wanted = f"{size_of(path):,} bytes", f"{archive.size:,}"
    else:
        found = digest_of(path, algorithm)
    if found != wanted:
        what = f"{path.name} has {found}, published is {wanted}"
        raise DownloadError(f"{what}; delete {path} if it is still there and {ADVICE}")


def _verify_recorded(path: Path, record: Path) -> None:
    """Compare a file with the SHA-256 sum in `record`, or make that record."""
    found = digest_of(path, "sha256")
    if not record.is_file():
        with atomic(record) as temporary:
            temporary.write_text(f"{found}  {record.stem}\n")  # the form that sha256sum -c reads
    elif (wanted := record.read_text().split()[0]) != found:
        what = f"{path.name} has sha256 {found}, an earlier download had {wanted}"
        raise DownloadError(f"{what}; delete {record} if you trust the new one")


# --- unpacking, and knowing that it was done

def unpack(path: Path, archive: Archive, folder: Path) -> None:
    """Unpack a verified archive and write down what is there now, so that later runs can tell.

    All names are checked before the first file is written. Raises DownloadError.
    """
    try:
        with zipfile.ZipFile(path) as bundle:
            for member in bundle.infolist():
                check_name(member)
            written = archive.unpack(bundle, folder)
    except DAMAGED as error:
        raise DownloadError(f"{path} is damaged ({error}); delete it and run this again") from None
    with atomic(_contents(archive, folder)) as temporary:
        temporary.write_text("".join(f"{size_of(p)} {p.relative_to(folder).as_posix()}\n" for p in written))


def _contents(archive: Archive, folder: Path) -> Path:
    """The list of files an archive left in a folder."""
    return folder / f".{archive.name}.contents"


def is_complete(archive: Archive, folder: Path) -> bool:
    """Whether all files of an archive are still there, with the sizes they were unpacked with."""
    if not _contents(archive, folder).is_file():
        return False
    lines = [line.split(" ", 1) for line in _contents(archive, folder).read_text().splitlines()]
    return all(size_of(folder / name) == int(size) for size, name in lines)


# --- the command

def to_download(archive: Archive, folder: Path) -> int:
    """Bytes of an archive that are not here yet."""
    return max(0, archive.size - size_of(folder / archive.name) - size_of(folder / f"{archive.name}.part"))


def space_needed(archives: list[Archive], folder: Path, keep: bool) -> int:
    """The most bytes taken at any moment: an archive and its files, after the files of those before it."""
    taken, most = 0, 0
    for archive in archives:
        download = to_download(archive, folder)
        most = max(most, taken + download + archive.unpacked)
        taken += archive.unpacked + (download if keep else 0)
    return most


def announce(source: Source, missing: list[Archive], folder: Path, keep: bool) -> str:
    """What will be fetched, from where to where, and the space it takes."""
    fetch = readable(sum(to_download(archive, folder) for archive in missing))
    unpacked = readable(sum(archive.unpacked for archive in missing))
    needed, free = readable(space_needed(missing, folder, keep)), readable(free_space(folder))
    return "\n".join([
        source.title,
        f"  terms  {source.terms}",
        *(f"  from   {archive.url} ({readable(archive.size)})" for archive in missing),
        f"  to     {folder.absolute()}",
        f"  space  {fetch} to download, {unpacked} unpacked; {needed} at most, {free} free",
    ])


@contextlib.contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder; DownloadError if another process downloads into it."""
    with open(folder / ".download.lock", "w") as lock:
        if fcntl:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DownloadError(f"another download into {folder} is running; wait for it") from None
        yield


def agreed() -> bool:
    """Ask whether to go on; DownloadError when there is nobody to ask."""
    if not sys.stdin or not sys.stdin.isatty():
        raise DownloadError("nobody to ask whether to go on; add --yes")
    try:
        return input("Go on? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def run(source: Source, folder: Path, yes: bool, keep: bool = False, trust: bool = False) -> None:
    """Announce, ask, fetch and unpack what is missing of a source. Raises DownloadError or OSError."""
    archives = [replace(archive, digest=None) if trust else archive for archive in source.archives]
    missing = [archive for archive in archives if not is_complete(archive, folder)]
    if not missing:
        return print(f"{source.title}\n  is complete in {folder.absolute()}")
    print(announce(source, missing, folder, keep), flush=True)
    require_space(space_needed(missing, folder, keep), folder)
    if not yes and not agreed():
        return print("nothing was downloaded")
    make_folder(folder)
    with only_one(folder):
        for archive in missing:
            path = fetch(archive, folder)
            unpack(path, archive, folder)
            if not keep:
                path.unlink()
    print(f"done; use it with --data {folder}")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m detr_mini.data.download", description="Fetch a data set, check it and unpack it.",
        epilog="A download that was cut continues when the same command is run again.")
    made.add_argument("name", choices=SOURCES, help="the data set")
    made.add_argument("--to", type=Path, metavar="FOLDER", help="where to (default: data/coco or data/bccd)")
    made.add_argument("--yes", action="store_true", help="do not ask before starting")
    made.add_argument("--keep-archives", action="store_true", help="keep the zip files after unpacking them")
    made.add_argument("--trust", action="store_true",
                      help="accept an archive that is not the published one; record its SHA-256 sum instead")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 done, 1 failed (one line on stderr), 130 interrupted."""
    options = parser().parse_args(arguments)
    source = SOURCES[options.name]
    try:
        run(source, options.to or source.folder, options.yes, options.keep_archives, options.trust)
    except (DownloadError, OSError) as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        message = "the disk is full; make room and run the same command again to continue" if full else error
        print(f"error: {message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
