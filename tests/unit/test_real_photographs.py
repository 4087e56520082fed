"""Train, evaluate and detect on real photographs: the 292 of BCCD, where DETR_MINI_BCCD names their folder."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from detr_mini.__main__ import main

FOLDER = os.environ.get("DETR_MINI_BCCD", "")
pytestmark = pytest.mark.skipif(not FOLDER, reason="DETR_MINI_BCCD does not name the folder of BCCD photographs")


def test_train_evaluate_and_detect_end_to_end(tmp_path, capsys):
    data = ["--data", FOLDER]
    small = ["--size", "96", "--batch", "4", "--steps", "6", "--queries", "40", "--limit", "8",
             "--backbone", "small"]
    assert main(["train", *data, *small, "--val-split", "train", "--to", str(tmp_path / "run")]) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert len(losses) == 6 and losses[-1] < losses[0]
    weights = ["--weights", str(tmp_path / "run" / "final.safetensors")]
    assert main(["evaluate", *weights, *data, "--limit", "10", "--json", str(tmp_path / "ap.json")]) == 0
    assert set(json.loads((tmp_path / "ap.json").read_text())["per_class"]) == {"RBC", "WBC", "Platelets"}
    photo = sorted((Path(FOLDER) / "images").glob("*.jpg"))[0]
    assert main(["detect", str(photo), *weights, "--to", str(tmp_path / "found"), "--threshold", "0.05"]) == 0
    assert Image.open(tmp_path / "found" / f"{photo.stem}.png").size == Image.open(photo).size
    assert isinstance(json.loads((tmp_path / "found" / f"{photo.stem}.json").read_text()), list)
    assert "Traceback" not in capsys.readouterr().err
