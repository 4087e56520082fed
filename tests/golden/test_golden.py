"""Every detector against the numbers of its authors' implementation: outputs, losses, matches, gradient norms."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import check  # noqa: E402
import systems  # noqa: E402

from detr_mini.key_maps import recognise  # noqa: E402


def golden_files() -> list[Path]:
    """The golden files of all systems that can be built."""
    files = sorted(path for path in HERE.glob("*.json") if not path.name.endswith(".keys.json"))
    return [path for path in files if json.loads(path.read_text())["system"] in systems.BUILDERS]


@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.stem)
def test_every_entry_is_within_its_tolerance(path: Path) -> None:
    rows = check.check(path)
    exceeded = [f"{row.entry}: {row.difference:.3g} > {row.tolerance:.3g}" for row in rows if not row.holds]
    assert not exceeded
    case = check.Case.read(path)
    compared = {row.entry for row in rows}
    whole = case.facts["tolerance"]["other_arrays_abs"] is not None  # not so where padding has no defined numbers
    expected = set(case.arrays) | set(case.facts["losses"]) if whole else {"pred_boxes", "pred_logits_q7"}
    assert expected <= compared


@pytest.mark.parametrize("path", golden_files(), ids=lambda path: path.stem)
def test_official_names_give_the_system_away(path: Path) -> None:
    facts = json.loads(path.read_text())
    names = json.loads(path.with_suffix(".keys.json").read_text())["keys"]
    assert recognise(list(names)) == systems.BUILDERS[facts["system"]](facts).system


def test_a_small_mistake_is_noticed() -> None:
    """Without the factor that content puts on the place (Conditional DETR), arrays and gradients say so."""
    case = check.Case.read(HERE / "conditional_detr.json")
    model = check.build(case)
    with torch.no_grad():
        model.decoder.place_scale.layers[-1].weight.zero_()
        model.decoder.place_scale.layers[-1].bias.fill_(1)
    arrays, numbers, matched, gradients = check.observe(case, model)
    rows = check.compare_arrays(case, arrays) + check.compare_gradients(case, model, gradients)
    wrong = {row.entry for row in rows if not row.holds}
    assert {"query_scale_first16", "pred_logits_q7", "xattn_last", "grad_norm"} <= wrong
    assert not {"memory_first32", "reference_points", "xattn_first"} & wrong


def test_unreadable_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken, foreign = tmp_path / "broken.json", tmp_path / "foreign.json"
    broken.write_text("{")
    for suffix in (".npz", ".keys.json"):
        shutil.copy((HERE / "detr.json").with_suffix(suffix), foreign.with_suffix(suffix))
    foreign.write_text(json.dumps({"system": "yolo"}))
    assert check.main([str(broken), str(foreign), str(tmp_path / "absent.json")]) == 2
    said = capsys.readouterr().err
    assert "broken.json" in said and "absent.json" in said and "'yolo' is unknown" in said


def test_the_exit_code_tells_what_happened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 when all holds, 1 when a tolerance is exceeded: here because the copy's stored losses are wrong."""
    facts = json.loads((HERE / "detr.json").read_text())
    facts["losses"]["loss_giou"] *= 1.001
    for suffix in (".npz", ".keys.json"):
        shutil.copy((HERE / "detr.json").with_suffix(suffix), tmp_path / f"changed{suffix}")
    (tmp_path / "changed.json").write_text(json.dumps(facts))
    assert check.main([str(HERE / "detr.json")]) == 0
    assert check.main([str(tmp_path / "changed.json")]) == 1
    exceeded = [line for line in capsys.readouterr().out.splitlines() if "EXCEEDED" in line]
    assert len(exceeded) == 1 and exceeded[0].startswith("loss_giou ")
