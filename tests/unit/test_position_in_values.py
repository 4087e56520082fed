"""DETR with positions in its values: what is changed, what stays, and what the recorded runs say."""

import json
import sys
from pathlib import Path

import pytest
import torch

from detr_mini import zoo
from detr_mini.attention import MultiHeadAttention
from detr_mini.course import position_in_values
from detr_mini.course.position_in_values import (
    SEEDS,
    STEPS,
    PositionInValues,
    compared,
    path_of,
    record,
    with_position_in_values,
)

CHANGED = {"values": (2, 3, 3), "encoder": (2, 0, 0), "queries": (0, 3, 0), "cross": (0, 0, 3)}


def test_the_values_get_the_position_of_the_keys() -> None:
    """And keys and queries what they had: the same as moving the value oneself."""
    torch.manual_seed(0)
    attention = MultiHeadAttention(16, 2)
    query, memory, of_query, of_key = torch.randn(4, 2, 5, 16).unbind()
    mine = PositionInValues(attention)(query, memory, memory, of_query, of_key)
    assert torch.equal(mine, attention(query, memory, memory + of_key, of_query, of_key))
    assert not torch.allclose(mine, attention(query, memory, memory, of_query, of_key), atol=1e-3)
    assert torch.equal(PositionInValues(attention)(query, memory, memory), attention(query, memory, memory))


@pytest.mark.parametrize("form", STEPS)
def test_each_form_changes_its_own_attentions_and_no_weight(form: str) -> None:
    """Encoder, the queries' self-attention, cross-attention; first weights are those of the race."""
    torch.manual_seed(0)
    usual = zoo.build("detr", "scenes")
    torch.manual_seed(0)
    model = with_position_in_values(zoo.build("detr", "scenes"), form)
    parts = ([layer.self_attention for layer in model.encoder.layers],
             [layer.self_attention for layer in model.decoder.layers],
             [layer.cross_attention for layer in model.decoder.layers])
    assert tuple(sum(isinstance(one, PositionInValues) for one in part) for part in parts) == CHANGED[form]
    pairs = zip(usual.parameters(), model.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", STEPS)
def test_recorded_runs_say_where_they_come_from(form: str, seed: int) -> None:
    """Command, seed and the race's recipe; evaluations on 400 scenes."""
    head, *rows = map(json.loads, path_of(form, seed).read_text().splitlines())
    assert head["command"].startswith("python -m detr_mini.course.position_in_values") and head["machine"]["torch"]
    assert head["seed"] == seed and head["says"].startswith("positions are added to values, too")
    assert head["recipe"]["model"] == json.loads(json.dumps(vars(zoo.recipe("detr").model)))
    assert [(row["step"], row["images"]) for row in rows] == [(step, 400) for step in range(500, STEPS[form] + 1, 500)]


def test_what_notebook_03_says_of_them() -> None:
    """Cells' addresses in v: bands overlap with usual. Queries' addresses: every seed is better, by 0.1 and more."""
    at_500, at_1000 = compared(500), compared(1000)
    usual = at_500["usual"]
    assert [round(value, 3) for value in usual] == [0.123, 0.120, 0.144]
    for form in ("encoder", "cross"):
        assert min(at_500[form]) < max(usual) and max(at_500[form]) > min(usual)
    assert min(at_500["queries"]) > max(usual) + 0.1
    assert min(at_500["values"]) > max(usual) and min(at_1000["values"]) > max(at_1000["usual"]) + 0.05
    assert set(at_1000) == {"usual", "values"}


def test_a_run_leaves_such_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Two steps; the command line takes forms, seeds and a folder, and does not repeat a run."""
    monkeypatch.setattr(position_in_values, "evaluate", lambda *_, **__: Measured())
    monkeypatch.setitem(STEPS, "cross", 2)
    monkeypatch.setattr(sys, "argv", ["position_in_values", "cross", "--seeds", "1", "--to", str(tmp_path)])
    monkeypatch.setattr(position_in_values.record, "__defaults__", (0, tmp_path, None, 1))
    position_in_values.main()
    rows = path_of("cross", 1, tmp_path).read_text().splitlines()
    assert len(rows) == 3 and json.loads(rows[1])["ap50"] == 0.5
    position_in_values.main()
    assert "is there already" in capsys.readouterr().out


def test_an_unknown_form_is_told_the_known_ones(tmp_path: Path) -> None:
    """Before anything is trained."""
    with pytest.raises(ValueError, match=r"no form 'decoder': choose one of values, encoder, queries, cross"):
        record("decoder", folder=tmp_path)


class Measured:
    """An evaluation that costs nothing."""

    ap = ap50 = 0.5

    def to_dict(self) -> dict:
        """What is written down."""
        return {"ap50": 0.5, "images": 400}
