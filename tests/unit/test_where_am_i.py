"""Where am I: the straight line is the least squares one, the control is what it says, recorded runs are whole."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from detr_mini import zoo
from detr_mini.course import put_back, where_am_i
from detr_mini.course.put_back import PARTS, moved, read_put_back
from detr_mini.course.where_am_i import (
    FORMS,
    SEEDS,
    STEPS,
    Reader,
    build,
    path_of,
    places_of,
    r_squared,
    read,
    recorded,
    ridge,
    scaled,
)
from detr_mini.course.where_plots import nets, two_forms
from detr_mini.data.scenes import Scenes
from detr_mini.positions import Grid

RECIPE = zoo.recipe("detr")
SMALL = replace(RECIPE, model=replace(RECIPE.model, encoder_layers=1, decoder_layers=2))


def test_the_line_is_the_least_squares_one() -> None:
    """Without a penalty it is lstsq's; what is linear is read exactly; a large penalty leaves the mean."""
    torch.manual_seed(0)
    tokens, noise = torch.randn(300, 6), torch.randn(300, 2)
    places = tokens @ torch.randn(6, 2) + torch.tensor([3.0, -1.0])
    assert torch.allclose(read(tokens, ridge(tokens, places, 0.0)), places, atol=1e-4)
    inputs = torch.cat([tokens, torch.ones(300, 1)], 1)
    by_torch = torch.linalg.lstsq(inputs, noise).solution
    assert torch.allclose(ridge(tokens, noise, 0.0), by_torch, atol=1e-4)
    held = read(tokens, ridge(tokens, places, 1e9))
    assert torch.allclose(held, places.mean(0).expand_as(held), atol=1e-3)


def test_r_squared_of_known_answers() -> None:
    """Right: 1. Always the mean: 0. Twice as far off as the mean: -3."""
    true = torch.tensor([[0.0, 1.0], [1.0, 3.0]])
    assert r_squared(true, true).tolist() == [1.0, 1.0]
    assert r_squared(true.mean(0).expand(2, 2), true).tolist() == [0.0, 0.0]
    assert torch.allclose(r_squared(true.mean(0) - 2 * (true - true.mean(0)) + (true - true.mean(0)), true),
                          torch.tensor([-3.0, -3.0]))


def test_places_run_row_after_row() -> None:
    """As tokens do."""
    grid = Grid(torch.zeros(1, 6, 4), torch.zeros(1, 6, dtype=torch.bool), [(2, 3)])
    assert places_of(grid).tolist() == [[0, 0], [0, 0.5], [0, 1], [1, 0], [1, 0.5], [1, 1]]


def test_scaling_looks_at_the_fitted_scenes_only() -> None:
    """Mean 0 and deviation 1 there, whatever the others are."""
    tokens = torch.randn(4, 5, 3) * 7 + 2
    out = scaled(tokens, tokens[:2])
    assert torch.allclose(out[:2].mean((0, 1)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(out[:2].std((0, 1)), torch.ones(3), atol=1e-5)
    assert torch.equal(out[:2], scaled(torch.cat([tokens[:2], tokens[2:] * 99]), tokens[:2])[:2])


def test_the_control_is_told_of_no_position() -> None:
    """Its encoder gives the same whatever the grid's positions; DETR's does not; weights are those of the same seed."""
    outputs = {}
    for form in FORMS:
        torch.manual_seed(3)
        model = build(form, SMALL).eval()
        torch.manual_seed(4)
        with torch.no_grad():
            tokens, grid = model.tokenize(torch.randn(1, 3, 128, 128), torch.zeros(1, 128, 128, dtype=torch.bool))
            silent = replace(grid, position=torch.zeros_like(grid.position))
            outputs[form] = tokens, model.encoder(tokens, grid), model.encoder(tokens, silent), grid.position
    assert torch.equal(outputs["detr"][0], outputs["no_code"][0])
    assert torch.equal(outputs["no_code"][1], outputs["no_code"][2])
    assert torch.equal(outputs["no_code"][1], outputs["detr"][2])
    assert (outputs["detr"][1] - outputs["detr"][2]).abs().max() > 1e-2
    assert outputs["no_code"][3].abs().max() > 0.5  # the decoder's keys still have theirs


def test_unknown_forms_are_named() -> None:
    """The message has the forms there are."""
    with pytest.raises(ValueError, match="no form 'other': choose one of detr, no_code"):
        build("other", RECIPE)


def test_a_run_leaves_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provenance, looks, evaluations."""
    recipe = replace(SMALL, train=replace(SMALL.train, steps=1, batch=2))
    monkeypatch.setattr(where_am_i, "scenes_recipe", lambda name, steps: recipe)
    monkeypatch.setattr(where_am_i, "Scenes", lambda count, seed: Scenes(8, seed=seed))
    monkeypatch.setattr(where_am_i, "FITTED", range(4))
    monkeypatch.setattr(where_am_i, "JUDGED", range(4, 8))
    head, *lines = map(json.loads, where_am_i.record("no_code", 0, 1, tmp_path).read_text().splitlines())
    assert head["form"] == "no_code" and head["detector"] == "detr"
    assert [line["step"] for line in lines if "memory" in line] == [0, 1]
    assert all(line["memory"] == line["silenced"] for line in lines if "memory" in line)
    assert [line["step"] for line in lines if "ap50" in line] == [1]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", FORMS)
def test_recorded_runs_are_whole(form: str, seed: int) -> None:
    """Made by the command that they name; all looks and evaluations are there."""
    head, *lines = map(json.loads, path_of(form, seed).read_text().splitlines())
    assert head["command"] == f"python -m detr_mini.course.where_am_i --forms {form} --seeds {seed}"
    assert head["form"] == form and head["seed"] == seed and head["recipe"]["train"]["steps"] == STEPS
    assert [line["step"] for line in lines if "memory" in line] == list(where_am_i.LOOKS)
    assert [line["step"] for line in lines if "ap50" in line] == [500, 1000, 1500]


def test_what_the_course_says_of_places() -> None:
    """Trained, the memory tells its place in every seed. Its tokens do not, nor does it without positions, then or
    ever. AP50 with and without them cannot be told apart by these seeds at any step."""
    memory, tokens = recorded("detr", "memory"), recorded("detr", "tokens")
    assert all(min(pair) > 0.93 for pair in memory[1500])
    assert all(0.45 < value < 0.6 for looks in tokens.values() for pair in looks for value in pair)
    assert all(max(pair) < 0.6 for pair in memory[0])  # untrained
    assert all(max(pair) < 0.6 for pair in recorded("detr", "silenced")[1500])
    assert all(max(pair) < 0.7 for pair in recorded("no_code", "memory")[1500])
    usual, without = recorded("detr", "ap50"), recorded("no_code", "ap50")
    assert all(min(usual[step]) < max(without[step]) for step in (500, 1000, 1500))
    assert 0 < sum(usual[1500]) / 3 - sum(without[1500]) / 3 < 0.03


def test_the_shipped_detector_knows_its_places() -> None:
    """The figures that notebook 05 prints."""
    from detr_mini.files import DATA
    from detr_mini.weights import load_weights

    looked = Reader(Scenes(400, seed=1_000_003), RECIPE.data).look(load_weights(DATA / "weights/detr.safetensors"))
    assert looked["tokens"] == pytest.approx([0.585, 0.466], abs=0.01)
    assert looked["memory"] == pytest.approx([0.958, 0.970], abs=0.01)
    assert looked["silenced"] == pytest.approx([0.596, 0.411], abs=0.01)


def test_pictures_have_their_parts() -> None:
    """One net per title; three lines per form and a level."""
    figure = nets({"a": torch.rand(30, 16, 2), "b": torch.rand(30, 16, 2)}, 4)
    assert [axes.get_title() or axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    assert all(len(axes.lines) == 4 * 4 and len(axes.collections) == 25 for axes in figure.axes)
    both = [[recorded(form, name) for form in FORMS] for name in ("memory", "ap50")]
    left, right = two_forms(*both, ["with", "without"], 0.5).axes
    assert len(left.lines) == 7 and len(right.lines) == 6
    assert [text.get_text() for text in left.get_legend().get_texts()] == ["with", "without", "before the encoder"]


# ---------------------------------------------------------------- put back


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_put_back_and_nothing_else(part: str) -> None:
    """In a copy."""
    torch.manual_seed(0)
    born, model = zoo.build("detr", "scenes", SMALL.model), zoo.build("detr", "scenes", SMALL.model)
    mixed = put_back.put_back(part, model, born)
    assert moved(part, model, born) > 0.5 and moved(part, mixed, born) == 0
    parts = {"addresses": "decoder.query_embed.", "questions": ".cross_attention.query."}
    for name, value in mixed.state_dict().items():
        assert torch.equal(value, (born if parts[part] in name else model).state_dict()[name]), name


def test_a_put_back_run_leaves_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provenance, then figures."""
    recipe = replace(SMALL, train=replace(SMALL.train, steps=1, batch=2))
    monkeypatch.setattr(put_back, "scenes_recipe", lambda name, steps: recipe)
    monkeypatch.setattr(put_back, "Scenes", lambda count, seed: Scenes(4, seed=seed))
    head, figures = map(json.loads, put_back.record(1, 1, tmp_path).read_text().splitlines())
    assert head["seed"] == 1 and set(figures["ap50"]) == {"trained", "addresses", "questions"}
    assert set(figures["moved"]) == {"addresses", "questions"}


def test_what_the_course_says_of_addresses() -> None:
    """They move by 2 or 3%, and AP50 hardly notices their first values; the matrices that ask do matter."""
    for seed, figures in enumerate(read_put_back()):
        head = json.loads(put_back.path_of(seed).read_text().splitlines()[0])
        assert head["command"] == f"python -m detr_mini.course.put_back --seeds {seed}" and head["seed"] == seed
        assert head["recipe"]["train"]["steps"] == 1000
        assert 0.02 < figures["moved"]["addresses"] < 0.03 and 0.3 < figures["moved"]["questions"] < 0.35
        ap50 = figures["ap50"]
        assert abs(ap50["addresses"] - ap50["trained"]) < 0.01 and ap50["questions"] < 0.55 * ap50["trained"]
