"""The same tiny training in one process, and shared by several: what `torchrun` and `notebook_launcher` do.

    tiny_losses(processes=2)    # the loss of each step; equal to tiny_losses(processes=1)

Accelerate's `notebook_launcher` starts the processes out of the notebook's own. On a machine without GPUs they talk
through gloo. The model is tiny and the data are sixteen scenes, so that it takes seconds. (Scenes have one size. Where
sizes differ, each process pads to its own largest image, and the losses of two differ a little from those of one.)
"""

import contextlib
import io
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import notebook_launcher
from accelerate.state import AcceleratorState

from detr_mini import zoo
from detr_mini.data.scenes import Scenes
from detr_mini.recipes import Recipe, resized
from detr_mini.training import fit

STEPS, BATCH = 4, 4


def tiny_recipe() -> Recipe:
    """DETR's recipe for scenes with a tiny model and no dropout."""
    tiny = resized(zoo.recipe("detr", "scenes"), d_model=32, heads=4, encoder_layers=1, decoder_layers=2,
                   feed_forward=64, queries=8, dropout=0.0)
    return replace(tiny, train=replace(tiny.train, batch=BATCH, steps=STEPS, lr=1e-3))


def train_tiny(folder: str, processes: int) -> None:
    """What every process runs: the usual `fit`, which finds out by itself how many there are."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    recipe = tiny_recipe()
    fit(zoo.build("detr", "scenes", recipe.model), Scenes(16, seed=20), recipe, folder, processes=processes,
        progress=False)


def tiny_losses(processes: int) -> list[float]:
    """The loss of every step, a mean over the whole batch, however many processes (1, 2 or 4) share it.

    Raises ValueError for a number that does not divide the batch, and for several where processes cannot fork
    (Windows: use torchrun there).
    """
    if processes < 1 or BATCH % processes:
        raise ValueError(f"processes={processes}: a batch of {BATCH} is shared by 1, 2 or 4")
    if processes > 1 and not hasattr(os, "fork"):
        raise ValueError(f"processes={processes}: a notebook on this system cannot fork; use torchrun in a terminal")
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        AcceleratorState._reset_state(reset_partial_state=True)  # the launcher wants to be first; cells above were
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # this machine only, no network
        try:
            notebook_launcher(train_tiny, (folder, processes), num_processes=processes)
        finally:
            torch.set_num_threads(threads)
        lines = (Path(folder) / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]
