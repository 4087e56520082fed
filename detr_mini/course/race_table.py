"""The race as tables: from the recorded runs in a folder to Markdown.

    python -m detr_mini race --table data/runs/scenes

Every figure comes from the run files. A level of AP50 is reached where the straight line between two evaluations
crosses it. A cell gives the median over seeds, and the lowest and highest in brackets.
"""

import json
import statistics
from pathlib import Path

BATCH = 16  # images in a step of the race
LEVELS = (0.3, 0.5, 0.7, 0.8)


def read_runs(folder: Path) -> dict[str, list[tuple[dict, list[dict]]]]:
    """Every run of a folder: detector -> (origin, evaluations) of each seed, DETR first. A step is 16 images.

    Raises FileNotFoundError when there are none, ValueError naming a file that is not a run.
    """
    runs: dict[str, list[tuple[dict, list[dict]]]] = {}
    for path in sorted(folder.glob("*-seed*.jsonl"), key=lambda path: (not path.name.startswith("detr-"), path.name)):
        try:
            origin, *rows = map(json.loads, path.read_text().splitlines())
            rows = in_race_steps(rows, origin)
            runs.setdefault(origin["detector"], []).append((origin, rows))
            rows[-1]["ap50"], rows[-1]["seconds"]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"{path} is not a recorded run ({type(error).__name__}: {error})") from error
    if not runs:
        raise FileNotFoundError(f"no recorded runs (DETECTOR-seedN.jsonl) in {folder}")
    return runs


def in_race_steps(rows: list[dict], origin: dict) -> list[dict]:
    """Evaluations with steps counted in 16 images each, whatever batch a recipe has."""
    batch = origin.get("recipe", {}).get("train", {}).get("batch", BATCH)
    return [row | {"step": row["step"] * batch // BATCH} for row in rows]


def reached(rows: list[dict], level: float, axis: str = "step") -> float | None:
    """Where AP50 first gets to a level, in steps or in training seconds; None when it never does."""
    before = {"step": 0, "seconds": 0.0, "ap50": 0.0}
    for row in rows:
        if row["ap50"] >= level:
            part = (level - before["ap50"]) / (row["ap50"] - before["ap50"])
            return before[axis] + part * (row[axis] - before[axis])
        before = row
    return None


def at_step(rows: list[dict], step: int) -> dict:
    """The evaluation at a step; ValueError when there is none."""
    for row in rows:
        if row["step"] == step:
            return row
    raise ValueError(f"no evaluation at step {step}: there are {', '.join(str(row['step']) for row in rows)}")


def spread(values: list[float | None], digits: int = 0) -> str:
    """"median (lowest to highest)"; "not reached" when one of them is missing."""
    if any(value is None for value in values):
        return "not reached"
    low, middle, high = (f"{f(values):,.{digits}f}" for f in (min, statistics.median, max))
    return f"{middle} ({low} to {high})" if len(values) > 1 else middle


def race_table(folder: Path) -> str:
    """Two tables of a folder of runs, as Markdown: steps to each level; seconds, and AP by the size of things."""
    runs = {name: [rows for _, rows in group] for name, group in read_runs(folder).items()}
    budget = min(rows[-1]["step"] for group in runs.values() for rows in group)
    return "\n\n".join(markdown(lines) for lines in (steps_table(runs, budget), seconds_table(runs, budget)))


def steps_table(runs: dict[str, list[list[dict]]], budget: int) -> list[list[str]]:
    """Steps to each level, and precision at the last common step. runs: detector -> evaluations of each seed."""
    base = statistics.median(reached(rows, 0.5) or rows[-1]["step"] for rows in next(iter(runs.values())))
    head = ["detector", "seeds", *(f"steps to AP50 {level}" for level in LEVELS), "faster than DETR to 0.5, times",
            "training seconds to 0.8", f"AP50 at step {budget:,}", f"AP at step {budget:,}"]
    lines = [head]
    for name, group in runs.items():
        steps = [[reached(rows, level) for rows in group] for level in LEVELS]
        half = statistics.median(steps[1]) if None not in steps[1] else None
        lines.append([
            name, str(len(group)), *(spread(values) for values in steps), f"{base / half:.1f}" if half else "-",
            spread([reached(rows, 0.8, "seconds") for rows in group]),
            *(spread([at_step(rows, budget)[key] for rows in group], 2) for key in ("ap50", "ap")),
        ])
    return lines


def seconds_table(runs: dict[str, list[list[dict]]], budget: int) -> list[list[str]]:
    """Seconds of training to the levels below 0.8, and AP by the size of things at the last common step."""
    sizes = ("small", "medium")
    lines = [["detector", *(f"training seconds to AP50 {level}" for level in LEVELS[:3]),
              *(f"AP {size} at step {budget:,}" for size in sizes)]]
    for name, group in runs.items():
        seconds = ([reached(rows, level, "seconds") for rows in group] for level in LEVELS[:3])
        ends = ([at_step(rows, budget)[f"ap_{size}"] for rows in group] for size in sizes)
        lines.append([name, *map(spread, seconds), *(spread(values, 2) for values in ends)])
    return lines


def markdown(lines: list[list[str]]) -> str:
    """A Markdown table; the first line is its head."""
    ruled = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return "\n".join("| " + " | ".join(line) + " |" for line in ruled)
