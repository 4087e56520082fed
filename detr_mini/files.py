"""Where the project's own data lies, and writing a file so that nobody ever sees half of it."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGE = Path(__file__).parent
# An installed package carries a copy of the small files; a clone has the folder itself.
DATA = PACKAGE / "_data" if (PACKAGE / "_data").is_dir() else PACKAGE.parent / "data"
# No room on the disk, in the user's share of it, or for so large a file.
FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", None), errno.EFBIG)
IN_THE_WAY = {
    FileExistsError: "a file of this name is there",
    NotADirectoryError: "a part of its path is a file",
    IsADirectoryError: "a folder of this name is there",
}


def unwritten(path: Path | str, error: Exception, what: str = "written") -> OSError:
    """What a failed write means to a user: which file, why, and what to do; an OSError with the number of `error`.

    An error without a number comes from a library whose write broke off, for which a full disk is the usual reason.
    """
    number = getattr(error, "errno", None)
    reason = IN_THE_WAY.get(type(error)) or getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    room = number in FULL or not isinstance(error, OSError)
    cure = "make room and give the same command again" if room else "choose another place"
    made = (type(error) if isinstance(error, OSError) else OSError)(
        f"{path} could not be {what} ({reason}): {cure}; what was there before is untouched"
    )
    made.errno = number
    return made


def make_folder(path: Path | str) -> Path:
    """Make a folder and those above it, unless it is there. Raises as `unwritten` when that cannot be."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritten(path, error, "made a folder") from error
    return path


def require_place(path: Path | str) -> None:
    """Raises as `atomic` would for a path that cannot be written to. Ask before work of hours, not after it."""
    path = Path(path)
    folder = make_folder(path.parent)
    try:
        if path.is_dir():
            raise IsADirectoryError
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise unwritten(path, error) from error


@contextmanager
def atomic(path: Path | str, *also: type[Exception]) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` when the block ends well, and vanishes when it does not.

        with atomic("model.safetensors") as temporary:
            temporary.write_bytes(data)

    A crash, a full disk or a second process leaves either the old file or the new one, never a mixture.
    also: what the library that writes raises instead of an OSError. Raises as `unwritten`.
    """
    path, temporary = Path(path), None
    make_folder(path.parent)
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        os.close(handle)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except (OSError, *also) as error:
        raise unwritten(path, error) from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)
