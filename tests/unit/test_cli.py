"""The command line, from the outside: what a user types, sees and gets."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from detr_mini.__main__ import main

TINY_COCO = Path(__file__).parents[2] / "data" / "tiny_coco"
QUICK = ["--steps", "2", "--batch", "2", "--size", "64", "--queries", "30", "--backbone", "small"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """The folder of a short training run on the fixture."""
    folder = tmp_path_factory.mktemp("run")
    arguments = ["train", "--data", str(TINY_COCO), "--val-split", "train", "--to", str(folder), *QUICK]
    assert main(arguments) == 0
    return folder


def error_of(capsys, *arguments: str) -> str:
    """The one line that a mistake gives."""
    assert main(list(arguments)) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-1].startswith("error: ") and "Traceback" not in "".join(said)
    return said[-1]


def test_list_shows_every_detector_with_its_paper(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert "Carion et al. 2020" in said and "coco 41.5 M parameters" in said


def test_train_writes_a_run_that_goes_on(run_folder, capsys):
    assert {"log.jsonl", "last.pt", "final.safetensors"} <= {p.name for p in run_folder.iterdir()}
    assert main(["train", "--data", str(TINY_COCO), "--val-split", "train", "--to", str(run_folder), *QUICK]) == 0
    assert "2 steps, loss" in capsys.readouterr().out


def test_evaluate_prints_and_writes_figures(run_folder, tmp_path, capsys):
    weights = str(run_folder / "final.safetensors")
    target = tmp_path / "ap.json"
    arguments = ["evaluate", "--weights", weights, "--data", str(TINY_COCO), "--split", "train", "--json", str(target)]
    assert main(arguments) == 0
    assert "AP50" in capsys.readouterr().out
    assert 0 <= json.loads(target.read_text())["ap50"] <= 1


def test_detect_writes_a_picture_and_its_numbers(run_folder, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    Image.new("RGB", (90, 60), "navy").save(photo)
    weights = str(run_folder / "final.safetensors")
    arguments = ["detect", str(photo), "--weights", weights, "--to", str(tmp_path / "out")]
    assert main([*arguments, "--threshold", "0"]) == 0
    found = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert found and {"class", "label", "score", "box_xyxy"} == set(found[0])
    assert Image.open(tmp_path / "out" / "photo.png").size == (90, 60)
    assert "found ->" in capsys.readouterr().out


def test_mistakes_get_one_line_that_names_the_cure(run_folder, tmp_path, capsys):
    weights = str(run_folder / "final.safetensors")
    assert "no detector 'yolo': choose one of detr" in error_of(capsys, "train", "--detector", "yolo")
    assert "no preset 'huge'" in error_of(capsys, "train", "--preset", "huge")
    assert "--steps is 0: give a number above 0" in error_of(capsys, "train", "--steps", "0")
    assert "--limit is -1" in error_of(capsys, "train", "--limit", "-1")
    assert str(tmp_path / "gone") in error_of(capsys, "train", "--data", str(tmp_path / "gone"))
    assert "no weights at" in error_of(capsys, "evaluate", "--weights", str(tmp_path / "none.safetensors"))
    assert "gone.jpg" in error_of(capsys, "detect", str(tmp_path / "gone.jpg"), "--weights", weights)
    (tmp_path / "text.jpg").write_text("not a picture")
    assert "text.jpg" in error_of(capsys, "detect", str(tmp_path / "text.jpg"), "--weights", weights)
    foreign = tmp_path / "foreign"
    shutil.copytree(TINY_COCO, foreign)
    path = foreign / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"categories": [one | {"name": f"new {one['name']}"}
                                                         for one in content["categories"]]}))
    assert "categories differ: 6 classes have objects in val and are not listed in train by that name" in error_of(
        capsys, "train", "--data", str(foreign), *QUICK)
    other = ["train", "--data", str(TINY_COCO), "--val-split", "train", "--to", str(run_folder), *QUICK, "--lr", "1e-3"]
    assert "holds a run with another recipe" in error_of(capsys, *other)


def test_a_backbone_that_cannot_be_fetched_names_the_choices(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: (_ for _ in ()).throw(OSError("no network")))
    said = error_of(capsys, "train", "--data", str(TINY_COCO), "--val-split", "train", "--preset", "coco",
                    "--to", str(tmp_path / "run"), "--steps", "1")
    assert "Choices: connect to a network once" in said and "--backbone-weights none" in said


@pytest.mark.parametrize("command", [[], ["train"], ["check"], ["evaluate"], ["detect"], ["pretrain"], ["list"],
                                     ["plan"], ["race"]])
def test_help_is_there_for_everything(command, capsys):
    with pytest.raises(SystemExit) as done:
        main([*command, "--help"])
    assert done.value.code == 0 and len(capsys.readouterr().out) > 100


def test_the_module_runs_from_a_shell_and_refuses_unknown_commands():
    run = subprocess.run(
        [sys.executable, "-m", "detr_mini", "fly"], capture_output=True, text=True, env=os.environ, timeout=120
    )
    assert run.returncode == 2 and "invalid choice: 'fly'" in run.stderr and "Traceback" not in run.stderr
