"""The live training cell: it grows a curve, can be stopped and goes on, and loads what was finished."""

from dataclasses import replace

import pytest
import torch

from detr_mini import zoo
from detr_mini.course import live as lives
from detr_mini.course.live import LiveRun, train_live
from detr_mini.course.live_view import Bar, LiveCurves
from detr_mini.recipes import TrainRecipe
from detr_mini.training import TrainingError

TINY = {"scenes": 8, "held_out": 4}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """A detector of toy size, and a folder of its own for what is kept."""
    recipe = zoo.recipe("detr", "scenes")
    model = replace(recipe.model, d_model=32, heads=4, encoder_layers=1, decoder_layers=1, feed_forward=32)

    def tiny(name, steps):
        zoo.entry(name)
        return replace(recipe, model=model, train=TrainRecipe(steps=steps, batch=2, backbone_lr=0.0))

    monkeypatch.setattr(lives, "scenes_recipe", tiny)
    monkeypatch.setattr(lives, "runs_folder", lambda: tmp_path / "my_runs")


def weights(live):
    """All weights as one vector."""
    return torch.cat([tensor.flatten() for tensor in live.model.state_dict().values()])


def test_it_trains_measures_and_keeps(capsys):
    live = train_live("detr", steps=5, every=2, **TINY)
    assert [row["step"] for row in live.curve] == [2, 4, 5] and set(live.curve[0]) == {"step", "seconds", "ap50"}
    assert [line["step"] for line in live.history] == [1, 2, 3, 4, 5]
    assert live.finished and not live.model.training and live.folder.is_dir()
    said = capsys.readouterr().out
    assert "detr: 5 steps" in said and "next time it is loaded" in said and str(live.folder.parent) not in said


def test_a_finished_run_is_loaded_and_says_so(capsys, monkeypatch):
    first = train_live("detr", steps=3, every=2, **TINY)
    monkeypatch.setattr(LiveRun, "measure", lambda *_: pytest.fail("evaluated again"))
    torch.manual_seed(7)
    second = train_live("detr", steps=3, every=2, **TINY)
    after = torch.rand(1)
    assert torch.equal(weights(first), weights(second)) and second.curve == first.curve
    assert "was made before; it is loaded" in capsys.readouterr().out
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(1))  # the notebook's random numbers did not move


def test_other_seeds_and_steps_are_other_runs():
    pairs = ((1, 0), (1, 1), (2, 0))
    folders = {train_live("detr", steps=steps, every=2, seed=seed, **TINY).folder for steps, seed in pairs}
    assert len(folders) == 3


def test_stopped_it_keeps_what_there_is_and_goes_on_to_the_same_weights(capsys, monkeypatch):
    whole = train_live("detr", steps=6, every=2, **TINY)
    stopped_at, follow = [5], lives.follow

    def stop(run, step, bar, view):
        follow(run, step, bar, view)
        if step in stopped_at:
            raise KeyboardInterrupt

    monkeypatch.setattr(lives, "follow", stop)
    part = train_live("detr", steps=6, every=2, again=True, **TINY)
    assert not part.finished and [row["step"] for row in part.curve] == [2, 4] and len(part.history) == 5
    assert "Stopped after 5 of 6 steps" in (said := capsys.readouterr().out) and "goes on after step 4" in said
    stopped_at.clear()
    rest = train_live("detr", steps=6, every=2, **TINY)
    assert rest.finished and torch.equal(weights(rest), weights(whole))
    assert [row["ap50"] for row in rest.curve] == [row["ap50"] for row in whole.curve]


def test_stopped_before_anything_is_saved(capsys, monkeypatch):
    monkeypatch.setattr(lives, "follow", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    live = train_live("detr", steps=4, every=2, **TINY)
    assert live.curve == [] and len(live.history) == 1 and "from the beginning" in capsys.readouterr().out


def test_laps_end_where_one_go_ends():
    whole = train_live("detr", steps=6, every=2, **TINY)
    run = LiveRun("detr", 6, every=2, folder=whole.folder.with_name("laps"), **TINY)
    for until in (2, 4, 4, 6):
        run.advance(until)
        assert run.saved() == until and run.curve()[-1]["step"] == until
    assert torch.equal(weights(run), weights(whole))


def test_a_damaged_run_starts_anew_in_its_own_folder_and_is_refused_in_yours(capsys):
    live = train_live("detr", steps=2, every=2, **TINY)
    (live.folder / "last.pt").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match="holds a damaged run .* say again=True"):
        train_live("detr", steps=2, every=2, folder=live.folder, **TINY)
    assert train_live("detr", steps=2, every=2, **TINY).finished
    (live.folder / "log.jsonl").write_text("no json\n")
    assert train_live("detr", steps=2, every=2, folder=live.folder, again=True, **TINY).finished


def test_a_folder_of_another_run_is_refused():
    live = train_live("detr", steps=2, every=2, **TINY)
    with pytest.raises(TrainingError, match=r"another seed \(0, now 1\)"):
        train_live("detr", steps=2, every=2, seed=1, folder=live.folder, **TINY)


def test_two_at_once_are_refused(tmp_path):
    with lives.alone(tmp_path), pytest.raises(RuntimeError, match="another notebook is training this very run"):
        train_live("detr", steps=1, folder=tmp_path, **TINY)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="every=0"):
        train_live("detr", steps=2, every=0, **TINY)
    with pytest.raises(ValueError, match="no detector 'yolo'"):
        train_live("yolo", steps=2, **TINY)


def test_the_picture_has_recorded_bands_and_the_curve():
    rows = [{"step": 50, "seconds": 9.0, "ap50": 0.2}, {"step": 100, "seconds": 18.0, "ap50": 0.5}]
    view = LiveCurves(["deformable"], lambda: {"deformable": rows}, steps=300)
    axes = view.figure({"deformable": rows}).axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["deformable, recorded", "deformable, now", "detr, recorded"]
    assert axes.get_xlim() == (0, 300) and len(axes.collections) == 2
    assert "deformable has AP50 0.50 at step 100" in view.words({"deformable": rows})
    assert "nothing is measured" in view.words({"deformable": []})


def test_without_recorded_runs_there_is_the_curve_alone(tmp_path):
    view = LiveCurves(["sam"], dict, folder=tmp_path)
    assert len(view.figure({"sam": [{"step": 5, "ap50": 0.1}]}).axes[0].lines) == 1


def test_the_bar_tells_the_rest_only_when_it_can(monkeypatch):
    bar, shown = Bar(100), []
    monkeypatch.setattr(bar, "show", lambda words, done: shown.append(words))
    clock = iter([10.0, 20.0])
    monkeypatch.setattr("detr_mini.course.live_view.time.perf_counter", lambda: next(clock))
    bar.move(10)
    bar.words = "AP50 0.31"
    bar.move(20)
    assert shown == ["step 10 of 100", "step 20 of 100 · AP50 0.31 · about 80 s to go"]
