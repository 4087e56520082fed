"""A training that is killed ten times, at moments nobody chose, ends at the weights of one that was left in peace."""

import json
import multiprocessing
import random
import time
from pathlib import Path

import torch
from safetensors.torch import load_file
from test_training import Squares, tiny_recipe

from detr_mini.detr import Detr
from detr_mini.training import fit

KILLS, STEPS, SECONDS = 10, 44, 120
WORKERS = multiprocessing.get_context("forkserver")  # a process that has PyTorch loaded, and children made of it
WORKERS.set_forkserver_preload(["pytest", "detr_mini.training", "detr_mini.transfer"])


def work(folder: Path) -> None:
    """The training; it writes a checkpoint after every step."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = tiny_recipe(steps=STEPS)
    fit(Detr(recipe.model), Squares(), recipe, folder, progress=False, save_every=1)


def steps_done(folder: Path) -> int:
    """Whole lines of the log so far."""
    log = folder / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def kill_after(folder: Path, steps: int, delay: float) -> None:
    """Start the training, wait until the log has so many steps and a moment longer, and kill it."""
    process = WORKERS.Process(target=work, args=(folder,))
    process.start()
    end = time.monotonic() + SECONDS
    while steps_done(folder) < steps:
        assert process.is_alive() and time.monotonic() < end, "it should get there"
        time.sleep(0.001)
    time.sleep(delay)
    assert process.is_alive(), "killed before its end"
    process.kill()
    process.join()


def test_ten_kills_change_no_bit(tmp_path: Path) -> None:
    """Weights, log and best figures; no file is left half-written or beside its place."""
    for name in ("whole", "killed"):
        if name == "killed":
            moments = random.Random()  # other moments in every run of the tests: none may matter
            for kill in range(KILLS):
                kill_after(tmp_path / name, 4 * kill + moments.randint(1, 3), moments.uniform(0, 0.05))
        process = WORKERS.Process(target=work, args=(tmp_path / name,))
        process.start()
        process.join(SECONDS)
        assert process.exitcode == 0
    whole, killed = (load_file(tmp_path / name / "final.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    logs = [[json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
            for name in ("whole", "killed")]
    for log in logs:
        assert [line.pop("seconds") > 0 for line in log] == [True] * STEPS
    assert logs[0] == logs[1]
    left = {path.name for path in (tmp_path / "killed").iterdir()} - {".training.lock"}
    assert left == {"final.safetensors", "last.pt", "log.jsonl"}
