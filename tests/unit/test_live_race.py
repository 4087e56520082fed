"""The race to run oneself: fair shares, laps, stopping, going on."""

import pytest
import torch
from test_live import small, weights  # noqa: F401 (small: a fixture)

from detr_mini.course import live as lives
from detr_mini.course import live_race
from detr_mini.course.live import LiveRun
from detr_mini.course.live_race import RaceCurves, mini_race

TINY = {"scenes": 8, "held_out": 4, "every": 2}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Six steps at most; every step takes a second."""
    monkeypatch.setattr(live_race, "STEPS", 6)
    read = lives.read_log
    monkeypatch.setattr(lives, "read_log", lambda folder: [line | {"seconds": 1.0} for line in read(folder)])


def test_equal_shares_in_turns(monkeypatch, capsys):
    laps, advance = [], LiveRun.advance
    monkeypatch.setattr(LiveRun, "advance", lambda run, until, after: (laps.append((run.name, until)),
                                                                       advance(run, until, after)))
    race = mini_race(["detr", "conditional"], minutes=8 / 60, **TINY)  # four seconds each
    assert laps == [("detr", 2), ("conditional", 2), ("detr", 4), ("conditional", 4)]
    assert [row["step"] for row in race["conditional"].curve] == [2, 4] and len(race["detr"].history) == 4
    assert all(live.finished and not live.model.training for live in race.values())
    assert "detr: 4 steps in 4 s, AP50" in capsys.readouterr().out


def test_again_it_is_loaded_and_with_more_minutes_it_goes_on(capsys):
    first = mini_race(["detr"], minutes=2 / 60, **TINY)
    second = mini_race(["detr"], minutes=2 / 60, **TINY)
    assert torch.equal(weights(first["detr"]), weights(second["detr"]))
    assert "made before, and loaded" in capsys.readouterr().out
    longer = mini_race(["detr"], minutes=1, **TINY)
    assert [row["step"] for row in longer["detr"].curve] == [2, 4, 6]
    assert [row["step"] for row in mini_race(["detr"], minutes=1 / 60, again=True, **TINY)["detr"].curve] == [2]


def test_stopped_it_keeps_whole_laps(monkeypatch, capsys):
    lap, laps = live_race.Lane.lap, []

    def stop(lane):
        laps.append(lane)
        if len(laps) == 3:
            raise KeyboardInterrupt
        lap(lane)

    monkeypatch.setattr(live_race.Lane, "lap", stop)
    race = mini_race(["detr", "conditional"], minutes=1, **TINY)
    assert [len(live.history) for live in race.values()] == [2, 2] and not race["detr"].finished
    assert "Stopped. Run the cell again" in capsys.readouterr().out


def test_nothing_to_race_with_is_told():
    with pytest.raises(ValueError, match="0 detectors, 1 minutes"):
        mini_race([], 1)
    with pytest.raises(ValueError, match="1 detectors, 0 minutes"):
        mini_race(["detr"], 0)


def test_two_panels(tmp_path):
    rows = [{"step": 50, "seconds": 9.0, "ap50": 0.2}]
    view = RaceCurves(["conditional", "detr"], dict, folder=tmp_path)
    left, right = view.figure({"conditional": rows, "detr": []}).axes
    assert left.lines[0].get_xdata().tolist() == [0, 50] and right.lines[0].get_xdata().tolist() == [0, 9]
    assert right.get_xlabel().startswith("seconds")
