"""What every notebook begins with, and the classroom's names in one place.

    import detr_mini as dm
    from detr_mini.course.notebook import check, plots, predict, quiz, reveal, where_we_are

    dm.setup(seed=0)
    where_we_are("attention")
"""

import os
import random

import numpy as np
import torch

from detr_mini.course import plots
from detr_mini.course.coursemap import describe_map, describe_way, draw_map, draw_way
from detr_mini.course.exercises import check, hint, solution
from detr_mini.course.machine import check_machine, time_a_step
from detr_mini.course.pipeline import describe, draw_pipeline
from detr_mini.course.plots import show
from detr_mini.course.questions import predict, quiz, reveal
from detr_mini.course.standing import show_progress, show_syllabus
from detr_mini.course.widgets import AttentionByHand

__all__ = [
    "AttentionByHand",
    "check",
    "check_machine",
    "course_map",
    "hint",
    "plots",
    "predict",
    "quiz",
    "reveal",
    "setup",
    "show",
    "show_progress",
    "show_syllabus",
    "solution",
    "time_a_step",
    "where_we_are",
]

THREADS = 2


def setup(seed: int = 0) -> None:
    """Make a notebook repeatable: random numbers from `seed`, a fixed number of threads, one style, short printing.

    Threads: the environment variable OMP_NUM_THREADS, or else two. Nothing is fetched from the network unless a cell
    says so.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or THREADS))
    torch.set_printoptions(precision=3, sci_mode=False, linewidth=100)
    np.set_printoptions(precision=3, suppress=True, linewidth=100)
    plots.style()
    print(f"detr_mini is ready: random seed {seed}, {torch.get_num_threads()} threads.")


def where_we_are(topic: str) -> None:
    """The drawing of the detector with one part lit. ValueError, naming the topics, for another topic."""
    show(draw_pipeline(topic), alt=describe(topic))


def course_map() -> None:
    """The map: the detector with the notebooks' numbers at its parts, and the way through the course."""
    show(draw_map(), alt=describe_map())
    show(draw_way(), alt=describe_way())
