"""Two processes on one CPU do what one process does; one that is lost ends the run, and the restart goes on."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training import tiny_recipe, train

from detr_mini.data.scenes import Scenes
from detr_mini.detr import Detr
from detr_mini.evaluation import evaluate
from detr_mini.training import TrainingError

START = """
import os, signal, sys, torch
sys.path.insert(0, {tests!r})
from test_training import Squares, tiny_recipe, Detr, fit
import torch.distributed as dist
torch.set_num_threads(1)
torch.manual_seed(0)
recipe = tiny_recipe(dropout=0.0)
folder = {folder!r}
"""
TRAIN = START + """
def lose_one(step):
    if {lost} and step.number == 5 and dist.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)

fit(Detr(recipe.model), Squares(), recipe, folder, progress=False, save_every=2, processes={processes},
    callbacks=(lose_one,))
if dist.is_initialized():
    from detr_mini.losses import count_boxes
    mine = [{{"labels": torch.zeros(3 if dist.get_rank() == 0 else 8)}}]
    boxes = count_boxes(mine, torch.device("cpu")).item()
    os.write(1, f"processes {{dist.get_world_size()}} boxes {{boxes}}\\n".encode())  # at once: both write to one pipe
    dist.destroy_process_group()
"""
EVALUATE = START + """
import json
from detr_mini import evaluation
dist.init_process_group("gloo")
from detr_mini.data.scenes import Scenes
asked = []
model = Detr(recipe.model)
model.register_forward_hook(lambda module, inputs, output: asked.append(len(inputs[0])))
result = evaluation.evaluate(model, Scenes(11, seed=3), recipe.data, batch_size=2)
line = json.dumps({{"mine": sum(asked), "rank": dist.get_rank()}} | result.to_dict())
os.write(1, (line + "\\n").encode())
dist.destroy_process_group()
"""


ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


def written(script: str, folder: Path, **options: object) -> str:
    """A script as a file beside its run's folder."""
    file = folder.with_suffix(".py")
    file.write_text(script.format(tests=str(Path(__file__).parent), folder=str(folder), **options))
    return str(file)


def run(script: str, folder: Path, processes: int, **options: object) -> subprocess.CompletedProcess:
    """Run a script in so many processes on this machine."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []),
               written(script, folder, processes=processes, **options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, env=ENVIRONMENT)


def trained(folder: Path, processes: int, lost: bool = False) -> subprocess.CompletedProcess:
    """The tiny detector of test_training, trained in so many processes; with `lost`, one is killed after step 5."""
    return run(TRAIN, folder, processes, lost=lost)


def same_training(one: Path, other: Path) -> None:
    """Two runs had the same losses and gradients at every step, and ended at the same weights.

    Keys' biases are left out: softmax does not see what all keys have in common, so their gradient is rounding only.
    """
    logs = [[json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()] for folder in (one, other)]
    assert len(logs[0]) == len(logs[1])
    for first, second in zip(*logs, strict=True):
        first.pop("seconds"), second.pop("seconds")
        assert first == pytest.approx(second, rel=1e-4, abs=1e-5)
    weights, others = (load_file(folder / "final.safetensors") for folder in (one, other))
    for name in weights:
        if not name.endswith("key.bias"):
            torch.testing.assert_close(weights[name], others[name], atol=1e-5, rtol=1e-4, msg=name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = trained(folder, 1)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def test_two_processes_end_at_the_weights_of_one(alone, tmp_path):
    done = trained(tmp_path / "two", 2)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("processes 2 boxes 5.5") == 2
    same_training(alone, tmp_path / "two")
    log = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == list(range(1, 9))  # one process writes


def free_port() -> int:
    """A port of this machine that nobody uses."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def test_two_machines_end_at_the_weights_of_one(alone, tmp_path):
    """Two launchers that meet at an address, one process each: the same command on either machine."""
    file = written(TRAIN, tmp_path / "machines", processes=2, lost=False)
    meet = ["--nnodes", "2", "--nproc_per_node", "1", "--rdzv_backend", "c10d", "--rdzv_id", "lesson",
            "--rdzv_endpoint", f"127.0.0.1:{free_port()}", "--local_addr", "127.0.0.1"]
    machines = [subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *meet, file], env=ENVIRONMENT,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [machine.communicate(timeout=280) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said[0][1][-2000:]
    assert all("processes 2 boxes 5.5" in out for out, _ in said)
    same_training(alone, tmp_path / "machines")


def test_a_lost_process_ends_the_run_and_another_number_goes_on(alone, tmp_path):
    """One of two is killed after step 5: the run fails at once and says so. One process alone finishes it."""
    folder = tmp_path / "lost"
    done = trained(folder, 2, lost=True)
    assert done.returncode != 0 and "SIGKILL" in done.stderr
    assert not (folder / "final.safetensors").exists()
    assert torch.load(folder / "last.pt", weights_only=True)["step"] == 4
    again = trained(folder, 1)
    assert again.returncode == 0, again.stderr[-2000:]
    same_training(alone, folder)


def test_every_image_is_evaluated_once(tmp_path):
    """Eleven images, two processes: six and five; both know the figures, and they are those of one."""
    done = run(EVALUATE, tmp_path / "evaluated", 2)
    assert done.returncode == 0, done.stderr[-2000:]
    results = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda result: result["rank"])
    assert [(result.pop("rank"), result.pop("mine")) for result in results] == [(0, 6), (1, 5)]
    torch.manual_seed(0)
    recipe = tiny_recipe(dropout=0.0)
    alone = evaluate(Detr(recipe.model), Scenes(11, seed=3), recipe.data, batch_size=2).to_dict()
    assert results[0] == results[1] and results[0]["images"] == 11
    assert {k: v for k, v in results[0].items() if k != "per_class"} == pytest.approx(
        {k: v for k, v in alone.items() if k != "per_class"}, abs=1e-6)


def test_the_number_of_processes_is_asserted():
    with pytest.raises(TrainingError, match="2 processes were asked for, 1 started, and 1 take part: .*torchrun"):
        train(None, processes=2)
