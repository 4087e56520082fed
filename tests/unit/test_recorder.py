"""The recorder: it sees what the model says, changes nothing, and its file gives back what it saw."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from detr_mini import zoo
from detr_mini.course.recorder import Recorder, Recording, load_recording
from detr_mini.data.scenes import Scenes
from detr_mini.detr import Detr
from detr_mini.recipes import Recipe
from detr_mini.training import fit

TINY = {"d_model": 32, "heads": 4, "encoder_layers": 1, "decoder_layers": 2, "feed_forward": 32, "queries": 9}


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    """Enough for a few steps."""
    return Scenes(12, seed=5)


def recipe(steps: int = 3) -> Recipe:
    """A run of a few steps."""
    base = zoo.recipe("detr", "scenes")
    return replace(base, model=replace(base.model, **TINY), train=replace(base.train, steps=steps, batch=4))


def tiny() -> Detr:
    """The same untrained detector each time."""
    torch.manual_seed(0)
    return zoo.build("detr", "scenes", recipe().model)


def recorder(scenes: Scenes, steps: tuple[int, ...] = (1, 3)) -> Recorder:
    """Over two images."""
    return Recorder(scenes, [0, 4], recipe().data, recipe().loss, steps)


@pytest.fixture(scope="module")
def recording(scenes: Scenes) -> Recording:
    """Looks at steps 0, 1 and 3."""
    one, model = recorder(scenes), tiny()
    one.look(model, step=0)
    fit(model, scenes, recipe(), callbacks=(one,), progress=False)
    return one.recording()


def test_a_run_is_the_same_with_a_recorder(scenes: Scenes) -> None:
    """Weights, mode and random state are as if nobody had looked."""
    models = tiny(), tiny()
    watched = recorder(scenes)
    watched.look(models[1], step=0)
    fit(models[0], scenes, recipe(), progress=False)
    fit(models[1], scenes, recipe(), callbacks=(watched,), progress=False)
    for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(mine, other)
    state, model = torch.get_rng_state(), models[0].train()
    watched.look(model, step=9)
    assert model.training and torch.equal(state, torch.get_rng_state())
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_it_sees_what_the_model_says(scenes: Scenes) -> None:
    """Boxes and logits of a plain forward pass; rows of attention sum to 1; owners are a matching."""
    model = tiny().eval()
    watched = recorder(scenes)
    look = watched.look(model, step=0)
    with torch.no_grad():
        output = model(watched.batch.images, watched.batch.mask)
    assert torch.allclose(look.boxes, output.boxes, atol=1e-5)
    assert torch.allclose(look.logits, output.logits, atol=1e-5)
    assert look.attention.shape == (2, 2, 4, 9, 8, 8)
    assert torch.allclose(look.attention.sum((-1, -2)), torch.ones(2, 2, 4, 9), atol=1e-5)
    for image, target in enumerate(watched.batch.targets):
        for layer in range(2):
            owned = look.owners[layer, image]
            assert sorted(owned[owned >= 0].tolist()) == list(range(len(target["labels"])))


def test_rows_and_shapes(recording: Recording) -> None:
    """One row per look; a step that was not recorded is named with those that were."""
    assert recording.steps == [0, 1, 3] and recording.at(3) == 2
    assert recording.boxes.shape == (3, 2, 2, 9, 4) and recording.owners.shape == (3, 2, 2, 9)
    assert recording.images.dtype == torch.uint8 and recording.losses["loss_ce"].shape == (3, 2)
    with pytest.raises(ValueError, match="step 2 was not recorded; recorded: 0, 1, 3"):
        recording.at(2)


def test_flips_count_changed_owners(recording: Recording) -> None:
    """By hand: of three things, one changes its query, then two do."""
    owners = torch.full((3, 1, 2, 5), -1)
    owners[:, 0, 0, 0], owners[:, 0, 0, 1], owners[:, 0, 1, 3] = 0, 1, 0
    owners[1:, 0, 1, 3], owners[1:, 0, 1, 4] = -1, 0  # the second image's thing goes from query 3 to 4
    owners[2, 0, 0, 0], owners[2, 0, 0, 1] = 1, 0  # the first image's two things change places
    assert replace(recording, owners=owners).flips().tolist() == pytest.approx([1 / 3, 2 / 3])


def test_a_file_gives_back_what_was_seen(recording: Recording, tmp_path: Path) -> None:
    """Whole numbers exactly, others to half precision; nothing but the file is left."""
    path = tmp_path / "replay.safetensors"
    recording.save(path)
    again = load_recording(path)
    assert [file.name for file in tmp_path.iterdir()] == ["replay.safetensors"]
    assert again.steps == recording.steps and torch.equal(again.images, recording.images)
    assert torch.equal(again.owners, recording.owners)
    for name in ("logits", "boxes", "attention"):
        assert torch.allclose(getattr(again, name), getattr(recording, name), atol=2e-3, rtol=2e-3)
    for mine, other in zip(again.targets, recording.targets, strict=True):
        assert torch.equal(mine["labels"], other["labels"])


def test_files_that_are_no_recordings(recording: Recording, tmp_path: Path) -> None:
    """Missing, truncated, or of another kind: each is told what it is."""
    with pytest.raises(FileNotFoundError, match="no recording at"):
        load_recording(tmp_path / "none.safetensors")
    cut = tmp_path / "cut.safetensors"
    recording.save(cut)
    cut.write_bytes(cut.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_recording(cut)
    save_file({"weight": torch.zeros(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="of format None"):
        load_recording(tmp_path / "weights.safetensors")


def test_nothing_recorded(scenes: Scenes) -> None:
    """A recorder whose steps never came."""
    with pytest.raises(ValueError, match="nothing was recorded"):
        recorder(scenes).recording()
