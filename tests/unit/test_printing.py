"""What strangers wrote reaches a terminal as letters only."""

import json

import numpy as np
import pytest
from PIL import Image

from detr_mini.__main__ import main
from detr_mini.printing import plain


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("cat", "cat"),
        ("\x1b[2Jcat", "\\x1b[2Jcat"),
        ("two\nlines\r\t", "two\\nlines\\r\\t"),
        ("\u202egpj.tac", "\\u202egpj.tac"),  # would be read as cat.jpg
        ("\u2028", "\\u2028"),
        ("half \ud800", "half \\ud800"),
        ("\x9b31m", "\\x9b31m"),  # an escape in one byte
        ("Straße 猫 кошка café", "Straße 猫 кошка café"),
        ("نمی\u200cخواهم", "نمی\u200cخواهم"),
        (3, "3"),
    ],
)
def test_plain(given, shown):
    assert plain(given) == shown
    plain(given).encode("utf-8")


EVIL = "cat\x1b[2J\x1b[H\u202e\nerror: forged"


def test_no_command_hands_a_strangers_text_to_the_terminal(tmp_path, capsys) -> None:
    """Class and file names with escape sequences, a newline and a turned reading direction, through four commands."""
    (tmp_path / "images").mkdir()
    things = {"images": [], "annotations": [], "categories": [{"id": 1, "name": EVIL}]}
    for number in range(1, 5):
        name = f"a\x1b[31m{number}.png"
        pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
        things["images"].append({"id": number, "file_name": name, "width": 64, "height": 48})
        box = {"bbox": [4, 4, 20, 20]}
        things["annotations"].append({"id": number, "image_id": number, "category_id": 1, "area": 400} | box)
    for split, rows in (("train", (1, 2, 3)), ("val", (4,))):
        part = {key: [row for row in things[key] if row.get("image_id", row["id"]) in rows]
                for key in ("images", "annotations")}
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(things | part))
    folder, run = str(tmp_path), str(tmp_path / "run")
    small = ["--steps", "1", "--backbone", "small", "--size", "64", "--batch", "1", "--evaluate-every", "1"]
    picture = str(tmp_path / "images" / "a\x1b[31m4.png")
    for command in (["check", folder, "--to", str(tmp_path / "check")],
                    ["train", "--data", folder, *small, "--to", run],
                    ["evaluate", "--data", folder, "--weights", f"{run}/final.safetensors"],
                    ["detect", picture, "--weights", f"{run}/final.safetensors", "--to", str(tmp_path / "out"),
                     "--threshold", "0"],
                    ["detect", picture + "\x1b[0m", "--weights", f"{run}/final.safetensors"]):
        main(command)
        said = "".join(capsys.readouterr())
        assert "\x1b[" not in said.replace("\x1b[A", "") and "\u202e" not in said, command[0]
        assert "\nerror: forged" not in said
