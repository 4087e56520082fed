"""Every detector as an ONNX file: onnxruntime gives PyTorch's answers, and a file that would not is not kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detr_mini import onnx_export, zoo
from detr_mini.__main__ import main
from detr_mini.checkpoints import save_weights
from detr_mini.files import DATA
from detr_mini.onnx_export import export
from detr_mini.recipes import SCENES_DATA
from detr_mini.sampling import sample, sample_by_grid
from detr_mini.weights import Weights, open_weights

onnx = pytest.importorskip("onnx")


@pytest.mark.parametrize("levels", [[(4, 6)], [(8, 8), (4, 4), (3, 5)]])
def test_both_ways_to_sample_agree(levels: list[tuple[int, int]]) -> None:
    """Values and gradients, also at places beyond the border."""
    generator = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in levels)
    values = torch.randn(2, tokens, 3, 5, generator=generator).double()
    locations = (torch.rand(2, 7, 3, len(levels), 4, 2, generator=generator) * 1.6 - 0.3).double()
    weights = torch.rand(2, 7, 3, len(levels), 4, generator=generator).double()
    told = []
    for way in (sample, sample_by_grid):
        given = [tensor.clone().requires_grad_() for tensor in (values, locations, weights)]
        result = way(given[0], levels, given[1], given[2])
        told.append((result, *torch.autograd.grad(result.square().sum(), given)))
    for one, other in zip(*told, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", zoo.names())
def test_shipped_detectors(name: str, tmp_path: Path) -> None:
    """All seven, on scenes; with their class names and colours inside."""
    path = tmp_path / "detector.onnx"
    assert export(open_weights(DATA / "weights" / f"{name}.safetensors"), path) < 1e-4
    told = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(told["classes"])[0] == "fish" and json.loads(told["height"]) == 128
    assert json.loads(told["mean"]) == list(SCENES_DATA.mean)


@pytest.mark.parametrize("name", zoo.names())
def test_detectors_with_resnet50(name: str, tmp_path: Path) -> None:
    """The papers' forms, softmax head and spare logit included, with few and narrow layers; a picture that is not
    square."""
    recipe = zoo.recipe(name, "coco").model
    small = replace(recipe, d_model=64, heads=4, encoder_layers=1, decoder_layers=2, feed_forward=64, queries=12)
    torch.manual_seed(0)
    model = zoo.entry(name).detector(small).eval()
    found = Weights(tmp_path, model, SCENES_DATA, [None] * small.classes, {})
    assert export(found, tmp_path / "detector.onnx", (96, 128)) < 1e-4


def test_the_command(tmp_path: Path, capsys) -> None:
    """Size by option; what it wrote is said."""
    path = tmp_path / "small.onnx"
    weights = str(DATA / "weights/detr.safetensors")
    assert main(["export-onnx", "--weights", weights, "--to", str(path), "--height", "64", "--width", "96"]) == 0
    assert "for images of 96 x 64; onnxruntime and PyTorch differ by" in capsys.readouterr().out
    assert main(["export-onnx", "--weights", weights, "--to", str(path), "--height", "8"]) == 1
    assert "too small: give 32 or more" in capsys.readouterr().err


def test_a_file_that_disagrees_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor anything half-written."""
    model = zoo.build("detr")
    save_weights(model, tmp_path / "a.safetensors", data=vars(SCENES_DATA))
    monkeypatch.setattr(onnx_export, "compared", lambda *_: float("nan"))
    with pytest.raises(ValueError, match="differ from PyTorch's by nan: .*was not written"):
        export(open_weights(tmp_path / "a.safetensors"), tmp_path / "detector.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    """With the command that installs it."""
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    weights = str(DATA / "weights/detr.safetensors")
    assert main(["export-onnx", "--weights", weights, "--to", str(tmp_path / "x.onnx")]) == 1
    assert 'pip install "detr_mini[onnx]"' in capsys.readouterr().err
