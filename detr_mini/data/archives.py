"""Unpacking zip files from the network: nothing outside the folder, every file whole or not there.

This file does not import torch.
"""

import fnmatch
import os
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

CHUNK = 1 << 20  # bytes
ENCRYPTED = 1  # bit of a zip member's flags


class DownloadError(RuntimeError):
    """What went wrong with a download or an archive and what to do about it, in one line."""


def readable(size: int) -> str:
    """Bytes as people write them: 253 MB, 19.3 GB (powers of ten)."""
    for unit, scale in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size} bytes"


def size_of(path: Path) -> int:
    """Bytes of a file, 0 if there is none."""
    return path.stat().st_size if path.is_file() else 0


def free_space(folder: Path) -> int:
    """Free bytes on the disk that holds `folder`, which need not exist yet."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(needed: int, folder: Path) -> None:
    """DownloadError when the disk has fewer than `needed` bytes free."""
    if needed > (free := free_space(folder)):
        raise DownloadError(
            f"not enough space: {readable(needed)} needed, {readable(free)} free at {folder.absolute()}; "
            "make room, or choose another disk with --to")


def check_name(member: zipfile.ZipInfo) -> None:
    """DownloadError when a member of an archive would leave the folder or is no plain file."""
    name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or ".." in parts or ":" in parts[0]:
        raise DownloadError(f"the archive holds {name!r}, which leaves the folder; nothing was unpacked")
    plain = kind in (0, stat.S_IFREG, stat.S_IFDIR) and not member.flag_bits & ENCRYPTED
    if not plain or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DownloadError(f"the archive holds {name!r}, which is no plain file; nothing was unpacked")


def extract(bundle: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, name: str) -> Path:
    """Write one member to `folder / name`, whole or not at all. One that is there with its CRC stays.

    DownloadError when a link inside `folder` would lead the file out of it.
    """
    target = folder / name
    if not Path(os.path.realpath(target)).is_relative_to(os.path.realpath(folder)):
        raise DownloadError(f"{target} leads out of {folder} through a link; remove the link")
    if target.is_file() and size_of(target) == member.file_size and _crc(target) == member.CRC:
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with bundle.open(member) as source, open(part, "wb") as file:
        shutil.copyfileobj(source, file, CHUNK)  # zipfile compares the CRC at the end
    os.replace(part, target)
    return target


def _crc(path: Path) -> int:
    """CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def unpack_matching(bundle: zipfile.ZipFile, folder: Path, patterns: tuple[str, ...] = ("*",)) -> list[Path]:
    """Unpack the members whose names match one of `patterns`, under their own names; returns their paths."""
    files = [member for member in bundle.infolist() if not member.is_dir()]
    wanted = [m for m in files if any(fnmatch.fnmatchcase(m.filename, pattern) for pattern in patterns)]
    if not wanted:
        raise DownloadError(f"{bundle.filename} holds nothing that matches {', '.join(patterns)}")
    missing = [member for member in wanted if size_of(folder / member.filename) != member.file_size]
    require_space(sum(member.file_size for member in missing), folder)
    bar = tqdm(wanted, desc="unpack", unit="file", disable=len(wanted) < 100)
    return [extract(bundle, member, folder, member.filename) for member in bar]
