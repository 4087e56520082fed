"""The measures of how a detector looks: each against a case that can be worked out by hand."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torchvision.ops import roi_align

from detr_mini import zoo
from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.course import looking, more_places, why_slow
from detr_mini.course.looking import TERMS
from detr_mini.course.recorder import Recorder, load_recording, read_recording_facts
from detr_mini.course.replay import Moment, describe_replay, render_replay
from detr_mini.data.scenes import CLASSES, PRESETS, Scenes
from detr_mini.recipes import DETR_SCENES, SMCA_SCENES
from detr_mini.trace import AttentionTrace

SMALL = {"d_model": 32, "heads": 4, "encoder_layers": 1, "decoder_layers": 2, "feed_forward": 64}


@pytest.fixture(scope="module", params=["detr", "smca"])
def model(request: pytest.FixtureRequest) -> torch.nn.Module:
    """A small detector with random weights, biases included."""
    torch.manual_seed(0)
    recipe = {"detr": DETR_SCENES, "smca": SMCA_SCENES}[request.param].model
    built = zoo.build(request.param, "scenes", replace(recipe, **SMALL)).eval()
    for layer in built.decoder.layers:
        torch.nn.init.normal_(layer.cross_attention.query.bias)
        torch.nn.init.normal_(layer.cross_attention.key.bias)
    return built


def test_entropy_from_one_place_to_all() -> None:
    """0 for one place, log 64 for all, log n for n alike; a weight of 0 counts as 0."""
    one = torch.zeros(8, 8)
    one[2, 5] = 1
    assert looking.entropy(torch.stack([one, torch.full((8, 8), 1 / 64)])).tolist() == pytest.approx([0, math.log(64)])


def test_coverage_by_hand() -> None:
    """A box over one whole cell, half of its neighbour, a quarter below that; beyond the image nothing."""
    box = torch.tensor([0.375, 0.375, 0.75, 0.75])  # of a 2 x 2 map: 1.5 cells each way
    assert looking.coverage(box, (2, 2)).tolist() == [[1.0, 0.5], [0.5, 0.25]]
    outside = torch.tensor([1.0, 0.5, 1.0, 1.0])
    assert looking.coverage(outside, (2, 2)).tolist() == [[0.0, 1.0], [0.0, 1.0]]
    within = torch.tensor([0.25, 0.25, 0.1, 0.2])
    assert looking.coverage(within, (2, 2)).sum().item() == pytest.approx(0.1 * 0.2 * 4)


def test_uniform_attention_has_the_area_inside() -> None:
    """The identity that the notebook leans on, for many boxes inside the image."""
    torch.manual_seed(0)
    size = 0.1 + 0.4 * torch.rand(50, 2)
    boxes = torch.cat([size / 2 + torch.rand(50, 2) * (1 - size), size], 1)
    flat = torch.full((50, 8, 6), 1 / 48)
    assert torch.allclose(looking.mass_inside(flat, boxes), size.prod(1), atol=1e-6)


def test_roi_weights_are_roi_align() -> None:
    """Weights sum to 1, and averaging with them is torchvision's answer."""
    torch.manual_seed(0)
    features, boxes = torch.randn(1, 5, 8, 8), torch.tensor([[0.41, 0.52, 0.33, 0.47], [0.5, 0.5, 0.25, 0.25]])
    weights = looking.roi_weights(boxes, (8, 8))
    assert torch.allclose(weights.sum((1, 2)), torch.ones(2), atol=1e-6)
    expected = roi_align(features, [cxcywh_to_xyxy(boxes) * 8], 1, sampling_ratio=4, aligned=True).flatten(1)
    assert torch.allclose(torch.einsum("nhw,dhw->nd", weights, features[0]), expected, atol=1e-6)


def test_flips_count_objects() -> None:
    """Two of three objects change hands; a free query that stays free is no news."""
    before, after = torch.tensor([[0, 1, -1, 2, -1]]), torch.tensor([[1, 0, -1, 2, -1]])
    assert looking.flipped(before, after).item() == pytest.approx(2 / 3)
    assert looking.flipped(after, after).item() == 0


def test_four_terms_are_the_attention(model: torch.nn.Module) -> None:
    """The softmax of their sum is what the same pass recorded; SMCA has its Gaussian besides."""
    torch.manual_seed(1)
    with torch.no_grad(), looking.listen(model.decoder) as heard, AttentionTrace(model) as trace:
        model(torch.randn(2, 3, 64, 64))
    assert len(heard) == 2 and "cross_attend" not in vars(model.decoder)
    for layer, asked in zip(model.decoder.layers, heard, strict=True):
        record = trace[f"decoder.layers.{layer.index}.cross_attention"]
        terms = looking.score_terms(layer.cross_attention, asked)
        assert tuple(terms) == TERMS
        total = sum(terms.values()) + getattr(record, "gaussian", 0)
        assert torch.allclose(total.softmax(-1), record.weights, atol=1e-5)


def test_the_seam_is_given_back_after_an_error(model: torch.nn.Module) -> None:
    """Nobody's detector stays changed."""
    with pytest.raises(RuntimeError, match="on purpose"), looking.attending(model.decoder, lambda *given: None):
        raise RuntimeError("on purpose")
    assert "cross_attend" not in vars(model.decoder)


def test_a_convolution_reads_its_neighbourhood() -> None:
    """A number made from one pixel is read from that pixel's cell alone."""
    images = torch.rand(2, 3, 32, 32, requires_grad=True)
    read = looking.reads(images[:, :, 9, 22].sum(1) ** 2, images, (4, 4))
    assert read[:, 1, 2].tolist() == pytest.approx([1, 1]) and read.sum().item() == pytest.approx(2)


def test_measures_of_uniform_attention() -> None:
    """Then mass is the area in this image and in any other, and both overlaps agree."""
    held_out, recipe = Scenes(6, seed=5), DETR_SCENES
    recorder = Recorder(held_out, range(6), recipe.data, recipe.loss, [])
    torch.manual_seed(0)
    look = recorder.look(zoo.build("detr", "scenes", replace(recipe.model, **SMALL)), 0)
    look.attention = torch.full_like(look.attention, 1 / 64)
    found = looking.measure(look, recorder.batch.targets)
    assert found["entropy"] == pytest.approx([math.log(64)] * 2, abs=1e-4)
    assert found["mass"] == pytest.approx(found["uniform"]) and found["elsewhere"] == pytest.approx(found["uniform"])
    assert found["roi"] == pytest.approx(found["roi_uniform"])


@pytest.mark.parametrize("name", ["detr", "smca"])
def test_the_stored_runs(name: str) -> None:
    """Provenance, the same steps in both files, measures within their bounds, and a recording that can be replayed."""
    head, lines = why_slow.read_measures(why_slow.RUNS / f"{name}.jsonl")
    assert head["detector"] == name and head["command"].startswith("python -m detr_mini.course.why_slow")
    path = why_slow.RUNS / f"{name}.safetensors"
    recording, facts = load_recording(path), read_recording_facts(path)
    assert recording.steps == [line["step"] for line in lines] and facts["recipe"] == head["recipe"]
    assert path.stat().st_size < 1_500_000
    for line in lines:
        assert all(0 <= value <= 1 for key in ("mass", "elsewhere", "roi", "iou") for value in line[key])
        assert all(0 <= value <= math.log(64) + 1e-3 for value in line["entropy"])
        assert set(TERMS) <= set(line["terms"])
    last = Moment(len(recording.steps) - 1, 0, 0)
    assert render_replay(recording, CLASSES, last) and "Query 0 says" in describe_replay(recording, CLASSES, last)


def test_a_learners_own_recording_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is one; the others are the course's."""
    monkeypatch.setattr(why_slow, "MINE", tmp_path)
    assert why_slow.recorded("detr.jsonl") == why_slow.RUNS / "detr.jsonl"
    (tmp_path / "detr.jsonl").touch()
    assert why_slow.recorded("detr.jsonl") == tmp_path / "detr.jsonl"
    assert why_slow.recorded("smca.jsonl") == why_slow.RUNS / "smca.jsonl"


def test_a_run_leaves_its_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Two steps of the real thing on few scenes; a second call trains nothing."""
    for name, value in {"MEASURED": 6, "REPLAYED": 2, "SPLIT": 2}.items():
        monkeypatch.setattr(why_slow, name, value)
    path = why_slow.record("detr", 2, tmp_path)
    head, lines = why_slow.read_measures(path)
    assert [line["step"] for line in lines] == [0, 2] and head["measured"]["scenes"] == 6
    assert json.loads(capsys.readouterr().out.splitlines()[0])["step"] == 0
    assert load_recording(tmp_path / "detr.safetensors").attention.shape == (2, 1, 2, 1, 25, 8, 8)
    stamp = path.stat().st_mtime_ns
    assert why_slow.record("detr", 2, tmp_path) == path and path.stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="choose detr or smca"):
        why_slow.record("deformable", 2, tmp_path)


# ---------------------------------------------------------------- more places


def test_the_same_things_on_more_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many pixels per thing, more places per picture; a run that is there is not repeated."""
    assert more_places.same_things(128) == replace(PRESETS["few"], name="few_at_128")
    assert [192 * side for side in more_places.same_things(192).side] == pytest.approx(
        [128 * side for side in PRESETS["few"].side])
    monkeypatch.setattr(more_places, "MEASURED", 4)
    monkeypatch.setattr(why_slow, "SPLIT", 2)
    monkeypatch.setattr(more_places, "Scenes", lambda count, **rest: Scenes(min(count, 20), **rest))
    path = more_places.record("detr", 192, 2, tmp_path)
    head, lines = why_slow.read_measures(path)
    assert head["side"] == 192 and [line["step"] for line in lines] == [0, 2]
    assert 64 < math.exp(lines[0]["entropy"][-1]) <= 144
    stamp = path.stat().st_mtime_ns
    assert more_places.record("detr", 192, 2, tmp_path) == path and path.stat().st_mtime_ns == stamp
    with pytest.raises(ValueError, match="side"):
        more_places.record("detr", 40, 2, tmp_path)
