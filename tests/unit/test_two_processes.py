"""Two processes on one CPU do what one process does: the same global batch, the same box count, the same weights."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

SCRIPT = """
import os, sys, torch
sys.path.insert(0, {tests!r})
from test_training import Squares, tiny_recipe, Detr, fit
import torch.distributed as dist
from detr_mini.losses import count_boxes
torch.set_num_threads(1)
torch.manual_seed(0)
recipe = tiny_recipe(dropout=0.0)
fit(Detr(recipe.model), Squares(), recipe, {folder!r}, progress=False)
if dist.is_initialized():
    mine = [{{"labels": torch.zeros(3 if dist.get_rank() == 0 else 8)}}]
    boxes = count_boxes(mine, torch.device("cpu")).item()
    os.write(1, f"processes {{dist.get_world_size()}} boxes {{boxes}}\\n".encode())  # at once: both write to one pipe
    dist.destroy_process_group()
"""


def run(folder: Path, processes: int) -> str:
    """Train the tiny detector of test_training in so many processes; returns what they print."""
    script = folder.with_suffix(".py")
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder)))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_two_processes_end_at_the_weights_of_one(tmp_path):
    run(tmp_path / "one", 1)
    said = run(tmp_path / "two", 2)
    assert said.count("processes 2 boxes 5.5") == 2
    one, two = (load_file(tmp_path / name / "final.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-5, rtol=1e-4, msg=name)
