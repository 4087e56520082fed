"""Pictures from strangers: only pictures are opened, whatever goes wrong is one line, and photographs stand upright."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from fault_ground import tiny_weights
from PIL import Image

from detr_mini.__main__ import main
from detr_mini.commands.detect import pictures_named
from detr_mini.data.check import check_folder
from detr_mini.data.coco import CocoFolder
from detr_mini.data.pictures import eight_bits, read_image
from detr_mini.drawing import font_for, has, writable

ROOT = Path(__file__).resolve().parents[2]
LOOP = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\n{} loop\nshowpage\n"


def smooth(seed: int, width: int = 96, height: int = 72) -> Image.Image:
    """A smooth random picture."""
    spots = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(spots).resize((width, height), Image.Resampling.BICUBIC)


def weights(folder: Path) -> str:
    """A tiny detector's file."""
    (folder / "tiny.safetensors").write_bytes(tiny_weights())
    return str(folder / "tiny.safetensors")


def folder_of(place: Path, names: list[str], size: tuple[int, int] = (96, 72), boxes=((10, 10, 30, 20),)) -> Path:
    """A COCO folder that lists these pictures of `images`, each with the same boxes."""
    images = [{"id": i, "file_name": name, "width": size[0], "height": size[1]} for i, name in enumerate(names)]
    things = [{"image_id": i, "category_id": 1, "bbox": list(box)} for i in range(len(names)) for box in boxes]
    things = [thing | {"id": number} for number, thing in enumerate(things, 1)]
    (place / "images").mkdir(parents=True, exist_ok=True)
    content = {"images": images, "annotations": things, "categories": [{"id": 1, "name": "cat"}]}
    (place / "instances_train.json").write_text(json.dumps(content))
    return place


# ---------------------------------------------------------------- what is opened


def test_postscript_is_never_interpreted(tmp_path: Path, capsys) -> None:
    """An endless loop in a file named photo.jpg: `check`, `train` and `detect` end at once, with a line each."""
    folder = folder_of(tmp_path / "data", ["photo.jpg"])
    (folder / "images" / "photo.jpg").write_bytes(LOOP)
    begun = time.monotonic()
    for command in (["check", str(folder), "--to", str(tmp_path / "check")],
                    ["train", "--data", str(folder), "--val-split", "train", "--steps", "1", "--backbone", "small",
                     "--to", str(tmp_path / "run")],
                    ["detect", str(folder / "images" / "photo.jpg"), "--weights", weights(tmp_path)]):
        assert main(command) == 1
        said = "".join(capsys.readouterr())
        assert "photo.jpg" in said and "cannot be decoded (cannot identify image file" in said
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF"])
def test_formats_that_are_read(kind: str, tmp_path: Path) -> None:
    """Their pixels are close to what was stored, whatever the name says."""
    if kind == "AVIF" and "AVIF" not in (Image.init() or Image.SAVE):
        pytest.skip("this Pillow has no AVIF")
    smooth(1).save(tmp_path / "photo.jpg", format=kind)
    image = read_image(tmp_path / "photo.jpg", (72, 96))
    off = (image.float() - torch.from_numpy(np.array(smooth(1))).permute(2, 0, 1)).abs()
    assert off.mean() < (12 if kind == "GIF" else 5) and (kind not in ("PNG", "BMP", "TIFF", "PPM") or off.max() == 0)


def test_a_heic_photograph_is_called_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its first bytes; the line names what reads it."""
    (tmp_path / "IMG_1.JPG").write_bytes(b"\0\0\0\x24ftypheic" + bytes(100))
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="IMG_1.JPG .*a HEIC photograph.*pillow-heif"):
        patch.setitem(sys.modules, "pillow_heif", None)  # not installed
        patch.setattr(Image, "OPEN", {name: way for name, way in Image.OPEN.items() if name != "HEIF"})
        read_image(tmp_path / "IMG_1.JPG")


@pytest.mark.parametrize(
    ("high", "bits"), [(200, 8), (255, 8), (256, 12), (3408, 12), (4095, 12), (4096, 16), (65535, 16)]
)
def test_grey_of_twelve_bits_is_not_black(high: int, bits: int) -> None:
    """The upper eight of the bits in use."""
    grey = np.array([[0, high // 2, high]])
    assert eight_bits(grey).tolist() == (grey >> (bits - 8)).tolist()
    assert eight_bits(grey).max() > 15


def test_a_twelve_bit_picture_is_read_light(tmp_path: Path) -> None:
    """As scanners and cameras store it, in 16 bits."""
    Image.fromarray(np.full((72, 96), 3000, np.uint16)).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png") == 3000 >> 4).all()


# ---------------------------------------------------------------- damaged ones


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Bits flipped, a piece cut out, or the end joined with another piece."""
    data = bytearray(data)
    way = dice.randrange(4)
    if way == 0:
        for _ in range(dice.randint(1, 40)):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    elif way == 1:
        for _ in range(dice.randint(1, 12)):
            data[dice.randrange(min(200, len(data)))] ^= 1 << dice.randrange(8)  # the head
    elif way == 2:
        start = dice.randrange(len(data))
        del data[start : start + dice.randrange(1, len(data))]
    else:
        cut = dice.randrange(len(data))
        data = data[:cut] + data[dice.randrange(len(data)) :]
    return bytes(data)


def test_three_hundred_damaged_files(tmp_path: Path, capsys) -> None:
    """Sixty of each of five formats, with EXIF, through `check` and `detect`: read, or one line that names the file."""
    dice, originals = random.Random(0), []
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "camera"
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF"):
        path = tmp_path / f"whole.{kind}"
        smooth(3).save(path, format=kind, **({"exif": exif} if kind != "BMP" else {}))
        originals.append((kind.lower(), path.read_bytes()))
    names = []
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for number in range(300):
        kind, data = originals[number % 5]
        names.append(f"{number}.{kind}")
        (folder / "images" / names[-1]).write_bytes(mutated(data, dice))
    report = check_folder(folder_of(folder, names), pictures=4)
    told = {one.kind: one.count for one in report.findings}
    assert 60 < told["broken files"] < 300 and set(told) >= {"broken files"}
    small, fine = weights(tmp_path), 0
    for name in names[::3]:
        status = main(["detect", str(folder / "images" / name), "--weights", small, "--to", str(tmp_path / "out")])
        out, err = capsys.readouterr()
        fine += status == 0
        assert "Traceback" not in out + err
        assert status == 0 or (err.count("error: ") == 1 and f"{name} cannot be decoded" in err), err
    assert 0 < fine < 100


# ---------------------------------------------------------------- turned ones


def marked(path: Path, tag: int, width: int = 40, height: int = 20) -> Path:
    """A photograph with a white stripe on the side that is left as it is seen."""
    seen = np.zeros((height, width, 3), np.uint8)
    seen[:, : width // 4] = 255
    ways = Image.Transpose
    back = (None, ways.FLIP_LEFT_RIGHT, ways.ROTATE_180, ways.FLIP_TOP_BOTTOM, ways.TRANSPOSE, ways.ROTATE_90,
            ways.TRANSVERSE, ways.ROTATE_270)[tag - 1]
    stored = Image.fromarray(seen)
    exif = Image.Exif()
    exif[0x0112] = tag
    (stored.transpose(back) if back is not None else stored).save(path, exif=exif)
    return path


@pytest.mark.parametrize("tag", range(1, 9))
def test_without_annotations_a_photograph_is_read_as_it_is_seen(tag: int, tmp_path: Path) -> None:
    """All eight orientations: the stripe is on the left. So `detect` sees what a person sees."""
    image = read_image(marked(tmp_path / "a.png", tag))
    assert image.shape == (3, 20, 40) and image[0, :, :10].min() == 255 and image[0, :, 10:].max() == 0


@pytest.mark.parametrize(("tag", "proof", "left"), [(3, (6, "seen"), True), (3, (6, "stored"), False), (3, None, False),
                                                    (2, (8, "seen"), True)])
def test_what_lying_photographs_prove_holds_for_the_others(tag: int, proof, left: bool, tmp_path: Path) -> None:
    """Stated sizes of tags 5 to 8 tell for tags 2 to 4; without any, a photograph is read as it is stored."""
    (tmp_path / "images").mkdir()
    marked(tmp_path / "images" / "a.png", tag)
    names, size = ["a.png"], (40, 20)
    if proof:
        marked(tmp_path / "images" / "b.png", proof[0])
        names.append("b.png")
    folder = folder_of(tmp_path, names, size, boxes=((2, 2, 8, 8),))
    if proof and proof[1] == "stored":  # stated as it is stored, and its boxes fit nowhere else
        path = folder / "instances_train.json"
        content = json.loads(path.read_text())
        content["images"][1] |= {"width": 20, "height": 40}
        more = {"image_id": 1, "category_id": 1, "bbox": [2, 24, 8, 12]}
        content["annotations"] += [more | {"id": 9 + i} for i in range(4)]
        path.write_text(json.dumps(content))
    image, _ = CocoFolder.open(folder, "train")[0]
    assert bool(image[0, :, :10].min() == 255) == left


def test_sizes_of_stored_pictures_with_boxes_of_turned_ones_are_an_error(tmp_path: Path) -> None:
    """The finding counts the boxes that prove it; `train` stops, too."""
    names = [f"{i}.png" for i in range(8)]
    (tmp_path / "images").mkdir()
    for name in names:
        marked(tmp_path / "images" / name, 6)  # stored 20 x 40, seen 40 x 20
    folder = folder_of(tmp_path, names, (20, 40), boxes=((2, 2, 8, 8), (24, 4, 12, 12)))
    (finding,) = [one for one in check_folder(folder).findings if one.kind == "turned photographs"]
    assert finding.level == "error" and finding.count == 8 and "8 of their 16 boxes" in finding.message
    once = ["--val-split", "train", "--steps", "1", "--backbone", "small", "--to", str(tmp_path / "run")]
    assert main(["train", "--data", str(folder), *once]) == 1 and not (tmp_path / "run" / "final.safetensors").exists()
    sound = folder_of(tmp_path, names, (40, 20), boxes=((2, 2, 8, 8), (24, 4, 12, 12)))
    assert [one.level for one in check_folder(sound).findings if one.kind == "turned photographs"] == ["note"]


# ---------------------------------------------------------------- names, letters, consoles


def test_detect_takes_patterns_and_folders(tmp_path: Path, capsys) -> None:
    """Where the shell does not expand them; a pattern without a match is told."""
    for name in ("a.png", "b.PNG", "notes.txt"):
        (smooth(1).save(tmp_path / name) if name != "notes.txt" else (tmp_path / name).write_text("x"))
    assert [path.name for path in pictures_named([str(tmp_path / "*.png")])] == ["a.png"]
    assert [path.name for path in pictures_named([str(tmp_path)])] == ["a.png", "b.PNG"]
    assert main(["detect", str(tmp_path / "*.gif"), "--weights", weights(tmp_path)]) == 1
    assert "no file fits" in capsys.readouterr().err
    assert main(["detect", str(tmp_path / "?.*"), "--weights", weights(tmp_path), "--to", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == ["a.png", "b.png"]


def test_class_names_in_cyrillic_are_drawn_with_their_letters() -> None:
    """matplotlib's font has them; Pillow's own has not."""
    font = font_for(["кошка"], 16)
    assert has(font, "кошка") and writable("кошка", font, "class 3") == "кошка"


def test_letters_that_no_font_has_become_a_number() -> None:
    """Rather than empty boxes."""
    font = font_for(["cat"], 16)
    assert writable("\U00013000\U00013001", font, "class 3") == "class 3"
    assert writable("cat", font, "class 3") == "cat"


def test_reports_are_written_where_the_console_is_not_utf8(tmp_path: Path) -> None:
    """`check` on a data set with Chinese class names, on a console that knows only ASCII."""
    (tmp_path / "images").mkdir()
    for name in ("a.png", "b.png"):
        smooth(5 if name == "a.png" else 6).save(tmp_path / "images" / name)
    folder = folder_of(tmp_path, ["a.png", "b.png"])
    path = folder / "instances_train.json"
    path.write_text(path.read_text().replace(chr(34) + "cat" + chr(34), chr(34) + "猫" + chr(34)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "detr_mini", "check", str(folder), "--to", str(tmp_path / "out")], cwd=ROOT, text=True,
        capture_output=True, env={"PATH": "", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT), "LC_ALL": "C"},
    )
    assert "Traceback" not in done.stderr and "UnicodeEncodeError" not in done.stderr, done.stderr
    assert "猫" in (tmp_path / "out" / "report.json").read_text(encoding="utf-8") or "\\u732b" in (
        tmp_path / "out" / "report.json").read_text(encoding="utf-8")
