"""Every folder of cases.py through check, train, evaluate and detect: the right outcome of each."""

import os
from pathlib import Path

import pytest
import torch
from cases import CASES, HEIGHT, WIDTH, Case, boxes
from fault_ground import tiny_weights

from detr_mini.__main__ import main
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.data.check import errors_of
from detr_mini.data.coco import CocoFolder
from detr_mini.data.layouts import find_splits
from detr_mini.data.raw import read_split

SHARED = os.environ.get("DETR_MINI_CASES")  # folders of the same names, to be tried as they are


def run(capsys: pytest.CaptureFixture, *command: str) -> tuple[int, str, str]:
    """Exit status, output, and the line of the error, of which there is at most one."""
    capsys.readouterr()
    status = main(list(command))
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == (status == 1 and command[0] != "check" or bool(errors)), err
    return status, out, " ".join(errors)


def try_case(case: Case, folder: Path, to: Path, capsys: pytest.CaptureFixture, exact: bool = True) -> None:
    """All four commands on one folder. exact: it was made by cases.py, so words and numbers are known."""
    weights = str(to / "tiny.safetensors")
    Path(weights).write_bytes(tiny_weights())
    status, said, error = run(capsys, "check", str(folder), "--to", str(to / "report"), "--size", "64")
    if case.check in ("fit", "errors"):
        assert status == (case.check == "errors"), said
        assert ("fit for training" in said) == (case.check == "fit") and case.says in said
    else:
        assert status == 1 and case.check in error
    if exact and case.images:
        for name, count in case.images.items():
            assert f"{name}: {count} images, " in said
    training = ["train", "--data", str(folder), "--preset", "scenes", "--size", "64", "--steps", "2", "--batch", "2",
                "--weights", weights, "--to", str(to / "run")]
    status, said, error = run(capsys, *training)
    assert status == (case.train is not None) and (case.train or "") in error, error
    if case.train is None:
        assert "2 steps, loss" in said
        weights = str(to / "run" / "final.safetensors")
    elif case.train.startswith("--val-fraction"):
        tried = run(capsys, *training, "--val-fraction", "0.25")
        assert tried[0] == 0 and "validation: 2 of 8 pictures set aside" in tried[1]
        weights = str(to / "run" / "final.safetensors")
        status, said, _ = run(capsys, "evaluate", "--data", str(folder), "--weights", weights)
        assert status == 0 and "measured on the 2 pictures that the training set aside" in said
        (to / "run" / "held_out.json").unlink()
    status, said, error = run(capsys, "evaluate", "--data", str(folder), "--weights", weights)
    if case.evaluate is None and "no class of the data" not in error:
        assert status == 0 and "AP50" in said, error
    else:
        assert status == 1 and (case.evaluate or "") in error
    pictures = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".png")
                      and not path.name.startswith("._"))[:1]
    if pictures:
        assert run(capsys, "detect", *pictures, "--weights", weights, "--to", str(to / "out"))[0] == 0


@pytest.mark.parametrize("name", CASES)
def test_folder_as_it_is(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "data"
    CASES[name].make(folder)
    try_case(CASES[name], folder, tmp_path, capsys)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.check == "fit"])
def test_boxes_are_those_that_were_drawn(name: str, tmp_path: Path) -> None:
    """Whatever the format: the same numbers, of the right class, in the right picture."""
    CASES[name].make(tmp_path / "data")
    known = {tuple(map(tuple, sorted(boxes(seed)))): seed for start in (0, 50, 100, 200) for seed in range(start,
        start + 12)}
    seeds = []
    for split in find_splits(tmp_path / "data"):
        data = CocoFolder.of(split)
        for image, target in data:
            corners = cxcywh_to_xyxy(target["boxes"]) * torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
            found = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1).round(decimals=2).tolist()
            if found:
                seeds.append(known[tuple(map(tuple, sorted(found)))])
            for (x0, y0, x1, y1), label in zip(corners.long().tolist(), target["labels"].tolist(), strict=True):
                red, _, blue = image[:, (y0 + y1) // 2, (x0 + x1) // 2].tolist()
                assert data.classes[label] != "blue" or blue > red + 60  # it is drawn last, over the red one
    assert len(seeds) >= 8 - 2 and len(set(seeds)) == len(seeds)


OTHERS = sorted(set(os.listdir(SHARED)) - set(CASES)) if SHARED else []


@pytest.mark.skipif(not SHARED, reason="DETR_MINI_CASES names no folder with these cases")
@pytest.mark.parametrize("name", OTHERS)
def test_train_and_evaluate_agree_with_check(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """What check calls fit for training trains; what it calls an error without opening pictures does not."""
    folder, weights = Path(SHARED) / name, tmp_path / "tiny.safetensors"
    weights.write_bytes(tiny_weights())
    errors = errors_of([read_split(split) for split in find_splits(folder)])
    status = run(capsys, "check", str(folder), "--to", str(tmp_path / "report"), "--size", "64")[0]
    trained, _, said = run(capsys, "train", "--data", str(folder), "--preset", "scenes", "--size", "64", "--steps", "2",
                           "--batch", "2", "--weights", str(weights), "--to", str(tmp_path / "run"))
    assert trained == 1 if errors else trained <= status
    assert not errors or status == 1 and f"{errors[0].split}: {errors[0].kind}" in said


@pytest.mark.skipif(not SHARED, reason="DETR_MINI_CASES names no folder with these cases")
@pytest.mark.parametrize("name", [name for name in CASES if SHARED and (Path(SHARED) / name).is_dir()])
def test_folder_from_elsewhere(name: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    case = CASES[name]
    says = {"roboflow": "category cells left out"}.get(name, case.says)
    case = Case(case.make, case.check, case.train, case.evaluate, says=says)
    try_case(case, Path(SHARED) / name, tmp_path, capsys, exact=False)
