"""Whether new runs agree with committed ones; and what a detector costs."""

import json

import pytest

from detr_mini.__main__ import main
from detr_mini.course import race_costs
from detr_mini.course.race_check import agreement, widened
from detr_mini.course.race_table import read_runs


def write_run(folder, name, seed, scale=1.0, steps=(100, 200, 300, 400), **recipe):
    """A made-up run: AP50 rises to 0.8 * scale in equal parts."""
    folder.mkdir(exist_ok=True)
    rows = [{"step": step, "seconds": step / 10, "ap50": 0.2 * scale * part}
            | {key: 0.1 * scale * part for key in ("ap", "ap_medium", "ap_small")}
            for part, step in enumerate(steps, 1)]
    origin = {"detector": name, "seed": seed, "recipe": {"train": {"steps": steps[-1], "batch": 16}} | recipe}
    (folder / f"{name}-seed{seed}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [origin, *rows]))


@pytest.fixture
def folders(tmp_path):
    """Committed runs of two detectors with three seeds, and an empty place for new ones."""
    for name in ("detr", "dab"):
        for seed, scale in enumerate((0.98, 1.0, 1.02)):
            write_run(tmp_path / "old", name, seed, scale)
    return tmp_path / "old", tmp_path / "new"


def test_runs_within_the_bands_agree(folders, capsys):
    old, new = folders
    write_run(new, "dab", 0, 1.05)
    assert main(["race", "--against", str(old), "--to", str(new)]) == 0
    said = capsys.readouterr().out
    assert said.count(": within") == 7 and said.endswith("7 of 7 new figures lie within the bands.\n")
    assert "steps to AP50 0.5  committed 245 to 255" in said
    assert "AP50 at the end    committed 0.784 to 0.816, allowed 0.7" in said and "new 0.840: within" in said


def test_runs_outside_are_named_and_the_status_says_so(folders, capsys):
    old, new = folders
    write_run(new, "dab", 0, 1.2)
    write_run(new, "detr", 0, 0.6)
    assert main(["race", "--against", str(old), "--to", str(new)]) == 1
    said = capsys.readouterr().out
    assert said.count("OUTSIDE") == 14 and "new not reached: OUTSIDE" in said
    assert said.endswith("\n0 of 14 new figures lie within the bands.\n")


@pytest.mark.parametrize(("detectors", "agree"), [(2, False), (3, True)])
def test_one_figure_of_many_may_lie_outside(tmp_path, detectors, agree):
    """One of 14 is more than one in twenty, one of 21 is not."""
    for number in range(detectors):
        for folder, seeds in (("old", (0, 1, 2)), ("new", (0,))):
            for seed in seeds:
                write_run(tmp_path / folder, f"detector{number}", seed, 1.0 + 0.02 * seed)
    path = tmp_path / "new" / "detector0-seed0.jsonl"
    path.write_text(path.read_text().replace('"ap_small": 0.4', '"ap_small": 0.9'))
    words, agreed = agreement(tmp_path / "old", tmp_path / "new")
    assert words.count("OUTSIDE") == 1 and f"{7 * detectors - 1} of {7 * detectors} new" in words and agreed is agree


def test_the_median_of_the_new_seeds_counts_and_shorter_runs_are_compared_where_they_end(folders):
    old, new = folders
    for seed, scale in enumerate((0.5, 1.0, 1.01)):
        write_run(new, "dab", seed, scale, steps=(100, 200, 300))
    words, agree = agreement(old, new)
    assert agree and "steps to AP50 0.7  not reached by step 300 in the committed runs: not compared" in words


def test_what_cannot_be_compared_is_refused(folders, tmp_path):
    old, new = folders
    write_run(new, "dab", 0, model={"points": 8})
    with pytest.raises(ValueError, match="runs of dab have another recipe"):
        agreement(old, new)
    write_run(tmp_path / "more", "smca", 0)
    with pytest.raises(ValueError, match="smca has 0 committed runs"):
        agreement(old, tmp_path / "more")
    write_run(tmp_path / "odd", "dab", 0, steps=(90, 190))
    with pytest.raises(ValueError, match="never evaluated at the same step"):
        agreement(old, tmp_path / "odd")


def test_three_seeds_widen_to_five_deviations():
    low, high = widened([9.0, 10.0, 11.0], least=0.0)
    assert (low, high) == pytest.approx((10 - 4.968, 10 + 4.968), abs=1e-2)
    assert widened([10.0, 10.0, 10.0], least=0.1) == pytest.approx((low, high))


def test_a_step_is_sixteen_images(tmp_path):
    write_run(tmp_path, "deformable", 0, train={"batch": 32, "steps": 400})
    assert [row["step"] for row in read_runs(tmp_path)["deformable"][0][1]] == [200, 400, 600, 800]


def test_costs_are_measured_and_written_with_their_origin(tmp_path, monkeypatch):
    figures = race_costs.measure("detr", steps=2)
    assert set(race_costs.MEASURED) == set(figures)
    assert 190 < figures["mflops"] < 220  # 92 backbone, 102 linear layers, 8 attention
    assert figures["trained"] < figures["parameters"] == 1_546_558
    assert 0 < figures["image"] < figures["step"] and figures["before"] <= figures["peak"]
    monkeypatch.setattr(race_costs, "in_a_process_of_its_own", lambda name, own: figures)
    assert main(["race", "--costs", str(tmp_path / "costs.json"), "--detectors", "detr"]) == 0
    written = json.loads((tmp_path / "costs.json").read_text())
    assert written["detectors"]["detr"] == figures and {"commit", "command", "machine"} <= set(written["origin"])


def test_a_detector_that_cannot_be_measured_is_told(tmp_path):
    with pytest.raises(ValueError, match="no detector 'yolo'"):
        race_costs.costs(["yolo"], tmp_path / "costs.json")
    with pytest.raises(RuntimeError, match="measuring yolo failed: ValueError: no detector 'yolo'"):
        race_costs.in_a_process_of_its_own("yolo", own=False)
