"""From a FILE or URL to a detector that is ready to use: model, how it wants its images, what its labels mean.

    found = open_weights("https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth")
    found.model, found.data, found.classes, found.label_to_category, found.form.ap

A file of ours says all of it itself. For a checkpoint of a detector's authors it follows from the published form that
the checkpoint is found to be (official.py). What a file is, is told by its first bytes, not by its name.
"""

import re
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from urllib.parse import unquote, urlsplit

from detr_mini import zoo
from detr_mini.checkpoints import CheckpointError, load_official, load_weights, read_checkpoint
from detr_mini.data.archives import DownloadError
from detr_mini.data.download import Archive, digest_of, fetch, only_one
from detr_mini.data.scenes import cache_folder
from detr_mini.description import FORMAT, read_description
from detr_mini.detr import Detr
from detr_mini.files import make_folder
from detr_mini.hub import is_hub, read_hub
from detr_mini.official import coco_classes, recognise_form
from detr_mini.published import Form, published
from detr_mini.recipes import DataRecipe

LONGEST_HEADER = 100_000_000  # bytes; the safetensors format allows no more
DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.(pth|pt|safetensors)$")  # the start of its SHA-256 sum


@dataclass(frozen=True)
class Weights:
    """A detector on the CPU, in eval mode, and what is known of it.

    data: how images are prepared, None if the file does not say. classes: name of every label, None where there is
    none. label_to_category: category ids of the data it was trained on. form: what the authors of an official
    checkpoint published. said: in words, how the form was told and what it should give.
    """

    path: Path
    model: Detr
    data: DataRecipe | None
    classes: list[str | None]
    label_to_category: dict[int, int]
    form: Form | None = None
    said: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> DataRecipe:
        """How images are prepared; CheckpointError when the file does not say."""
        if self.data is None:
            raise CheckpointError(f"{self.path} does not say how images are prepared: use a file that `train` wrote")
        return self.data


def open_weights(place: Path | str, preset: str | None = None) -> Weights:
    """The detector in a file, or at an http address, of `train` or of a detector's authors; or in a folder of the
    transformers library.

    preset: which published form an authors' checkpoint is, where that cannot be told. Raises FileNotFoundError,
    DownloadError, or ValueError (CheckpointError) naming the file and what is wrong with it.
    """
    path = local_file(place)
    if path.is_dir() and is_hub(path):
        return hub(path)
    require_weights(path)
    try:
        if is_pickle(path):
            return official(path, preset)
        if not is_ours(path) and is_hub(path):
            return hub(path)
        if preset is None:
            return ours(path)
    except CheckpointError as error:
        if path == Path(place):
            raise
        raise CheckpointError(f"{error}; it came from {place}: delete {path} to fetch it again") from error
    raise ValueError(f"--preset {preset} is for checkpoints of a detector's authors; {path} says itself what it is")


def ours(path: Path) -> Weights:
    """A file of `train`."""
    found = read_description(path)
    return Weights(path, load_weights(path), found.data, found.classes, found.label_to_category)


def hub(path: Path) -> Weights:
    """A folder of the transformers library, or the file in it. Its rows are the data's own category ids."""
    model, data, classes, said = read_hub(path)
    return Weights(path, model, data, classes, {row: row for row, name in enumerate(classes) if name}, None, [said])


def official(path: Path, preset: str | None) -> Weights:
    """A checkpoint of a detector's authors, trained on COCO: its 91 rows are COCO's category ids."""
    checkpoint = read_checkpoint(path)
    system, preset, said = recognise_form(checkpoint, path.name, preset)
    form = published(system)[preset]
    model = load_official(zoo.build(system, preset), checkpoint.state).eval()
    names = coco_classes()
    categories = {row: row for row, name in enumerate(names) if name}
    return Weights(path, model, form.recipe.data, names, categories, form, [said, promise(form, checkpoint.epochs)])


def promise(form: Form, epochs: int | None) -> str:
    """What a form should give and where that is from, in words. epochs: the checkpoint's own, if it says."""
    if form.ap is None:
        return f"nobody published its AP ({form.source})"
    said = f"should give AP {form.ap / 100:.3f} on COCO val2017 after {form.epochs} epochs ({form.source})"
    other = epochs is not None and epochs != form.epochs
    return said + (f"; the file says it was trained for {epochs}, so expect another figure" if other else "")


# --- where the file is, and what


def local_file(place: Path | str) -> Path:
    """The path of a file; of an http address, that of its copy in the cache, fetched when it is not there yet.

    A download that was cut goes on where it stopped. Raises DownloadError, and ValueError for other addresses.
    """
    address = str(place)
    if "://" not in address:
        return Path(place)
    if urlsplit(address).scheme not in ("http", "https"):
        raise ValueError(f"{address}: only http and https are fetched; download it and give the file's path")
    name = Path(unquote(urlsplit(address).path)).name or "weights"
    folder = make_folder(cache_folder("weights") / sha256(address.encode()).hexdigest()[:12])  # one per address
    with only_one(folder):
        path = fetch(Archive(address, name, 0, None, lambda bundle, folder: [], 0), folder)
        try:
            require_weights(path)
            require_digest(path)
        except (CheckpointError, DownloadError) as error:
            path.unlink()
            path.with_name(f"{name}.sha256").unlink(missing_ok=True)
            raise type(error)(f"{address}: {error}") from None
    return path


def require_digest(path: Path) -> None:
    """DownloadError when a file's name ends in the start of a SHA-256 sum (torch.hub's custom), and not of its own."""
    wanted = DIGEST_IN_NAME.search(path.name)
    if wanted and not (found := digest_of(path, "sha256")).startswith(wanted[1]):
        raise DownloadError(
            f"its SHA-256 sum should start with {wanted[1]}, as its name says, but starts with {found[:8]}: it is "
            "damaged or not the file it was; it was not kept"
        )


def first_bytes(path: Path) -> bytes:
    """Enough of a file to tell what it is."""
    with path.open("rb") as file:
        return file.read(512)


def is_safetensors(start: bytes) -> bool:
    """Whether a file that starts so is safetensors: the length of a header, 8 bytes, and the header's first brace.

    The length can be any number, so its bytes say nothing by themselves: one file in 32 starts with 0x80, as a pickle
    does. What tells them apart is byte 8. The length's bound is that of the format itself.
    """
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST_HEADER


def is_ours(path: Path) -> bool:
    """Whether a safetensors file says that it is of this project. A damaged one is left to others to tell."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return f'"{FORMAT}'.encode() in file.read(min(length, LONGEST_HEADER)).replace(b"\\", b"")


def is_pickle(path: Path) -> bool:
    """Whether a file is a `.pth`: a zip file (since PyTorch 1.6) or a bare pickle."""
    start = first_bytes(path)
    return start.startswith((b"PK\x03\x04", b"\x80")) and not is_safetensors(start)


def require_weights(path: Path) -> None:
    """FileNotFoundError; CheckpointError for what is clearly something else, a web page above all."""
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder: give a file, such as {path / 'final.safetensors'}")
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: give a file of `train`, an authors' .pth, or a URL")
    start = first_bytes(path)
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path.name} is a web page, not weights: open the address in a browser, download the file there, and give "
            "its path"
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a pointer of Git LFS, not the file: fetch it with `git lfs pull`")
    if not is_safetensors(start) and not is_pickle(path):
        what = "is empty" if not start else f"starts with {start[:8]!r}"
        raise CheckpointError(f"{path} {what}: expected weights, a .safetensors file of `train` or an authors' .pth")
