"""Opening picture files, which may come from strangers, and turning photographs the way their boxes were drawn.

Only picture formats are opened. Pillow knows many more: a PostScript file named photo.jpg would start an interpreter.
Whatever decoding or turning raises, damaged files raise nearly anything, becomes one line that names the file.

Pictures become RGB the way annotations were made, which for COCO and DETR means PIL's `convert("RGB")`: grey is
repeated three times, a palette is looked up, an alpha channel is dropped (not blended). 16-bit grey keeps the upper
eight of the bits that it uses: of 12-bit pictures, which cameras and scanners store in 16 bits, bits 4 to 11.

A photograph that its EXIF tag turns was annotated either as it is stored or as it is seen. `read_image` turns it when
its width and height agree with the annotations only then, and, where sizes prove nothing (a picture that is only turned
upside down), when `upright` says that the boxes of this data set were drawn on pictures as they are seen. A picture
without annotations is always shown as a person would see it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from detr_mini.printing import plain

FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "HEIF", "AVIF")  # MPO: JPEGs of some cameras
GREY_16_BIT = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # how PIL names such images
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that swap width and height
TURNED = (2, 3, 4, *SIDEWAYS)  # those that change anything
EXIF_ORIENTATION = 0x0112
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # bytes 8 to 11


@contextmanager
def open_picture(path: Path) -> Iterator[Image.Image]:
    """An opened picture of one of `FORMATS`, nothing decoded yet.

    FileNotFoundError where there is none. ValueError naming the file for what cannot be opened, and for whatever is
    raised in the block.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"image file {plain(path)} is a folder: name the pictures in it")
    if not path.is_file():
        raise FileNotFoundError(f"image file {plain(path)} is missing: check its name")
    try:
        with Image.open(path, formats=known_formats(path)) as opened:
            yield opened
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise nearly anything
        raise ValueError(f"image file {plain(path)} cannot be decoded ({reason(error)}): take a whole JPEG or PNG"
                         ) from None


def known_formats(path: Path) -> list[str]:
    """The formats that are opened here. ValueError, with the cure, for an iPhone's where nothing reads it."""
    Image.init()
    if "HEIF" not in Image.OPEN and is_heif(path):
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            raise ValueError("a HEIC photograph, as iPhones take them: `pip install pillow-heif` and it is read, or "
                             "convert it") from None
        register_heif_opener()
    return [name for name in FORMATS if name in Image.OPEN]


def is_heif(path: Path) -> bool:
    """Whether a file starts as a HEIC photograph does."""
    with path.open("rb") as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS


def reason(error: Exception) -> str:
    """What went wrong, on one line."""
    said = plain(" ".join(str(error).split())) or type(error).__name__
    if "cannot identify image file" in said:
        return "cannot identify image file; JPEG, PNG, WebP, BMP, GIF, TIFF and PPM are read"
    return said[:200]


def read_image(
    path: Path, size: tuple[int, int] | None = None, upright: Callable[[], bool | None] = lambda: None
) -> Tensor:
    """Decode an image file to RGB, uint8 (3, H, W); see the head of this file for how.

    size: the (H, W) the annotation file states, None where there is none. upright: asked where that proves nothing:
    whether boxes were drawn on pictures as they are seen. ValueError when the image has another size or cannot be
    decoded, FileNotFoundError when it is not there; both name the path.
    """
    with open_picture(path) as opened:
        image = to_rgb(turned(opened, size, upright))
        if size is None or (image.height, image.width) == tuple(size):
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()  # (H, W, 3) -> (3, H, W)
    found, stated = f"{image.width} x {image.height}", f"{size[1]} x {size[0]}"
    raise ValueError(f"image file {plain(path)} is {found} pixels, its annotations say {stated}")


def orientation(image: Image.Image) -> int:
    """The EXIF tag that says how a photograph is to be turned; 1 for none."""
    tag = image.getexif().get(EXIF_ORIENTATION, 1)
    return tag if tag in TURNED else 1


def turned(image: Image.Image, size: tuple[int, int] | None, upright: Callable[[], bool | None]) -> Image.Image:
    """The image as its boxes were drawn on it; without annotations, as a person sees it."""
    tag = orientation(image)
    if tag == 1:
        return image
    stored, seen = (image.height, image.width), (image.width, image.height)
    if size is None:
        turn = True
    elif tag in SIDEWAYS and stored != seen:
        turn = tuple(size) == seen
    else:
        turn = bool(upright())
    return ImageOps.exif_transpose(image) if turn else image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any kind of PIL image as 8-bit RGB."""
    if image.mode in GREY_16_BIT:
        image = Image.fromarray(eight_bits(np.asarray(image).astype(np.int64)))
    elif image.mode == "F":
        raise ValueError("floating-point pixels; convert it to 8 bits first")
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def eight_bits(grey: np.ndarray) -> np.ndarray:
    """Grey values of up to 16 bits (H, W) as the upper eight of the bits in use: 8, 12 or 16 by the largest value."""
    low, high = int(grey.min()), int(grey.max())
    if low < 0 or high > 65535:
        raise ValueError(f"grey values {low} to {high}, more than 16 bits; convert it first")
    used = next(bits for bits in (8, 12, 16) if high < 1 << bits)
    return (grey >> (used - 8)).astype(np.uint8)
