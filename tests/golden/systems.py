"""What the golden files of one system have that those of another have not.

BUILDERS: the detector of a case, from its JSON facts. OBSERVERS: the arrays that only this system has, read off the
trace of the pass that is compared. NUMBERS: losses that this system's authors log beside those of DETR.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from detr_mini.decoder import DetectorOutput
from detr_mini.detr import Detr
from detr_mini.matching import Matches
from detr_mini.recipes import ModelRecipe
from detr_mini.trace import AttentionTrace


@dataclass
class Pass:
    """One forward pass with its loss: what an observer may read."""

    model: Detr
    output: DetectorOutput
    trace: AttentionTrace
    targets: list[dict[str, Tensor]]
    matches: Matches


def detr(facts: dict) -> Detr:
    return Detr(ModelRecipe(dropout=0.0))


BUILDERS: dict[str, Callable[[dict], Detr]] = {
    "detr": detr,
}

OBSERVERS: dict[str, Callable[[Pass], dict[str, Tensor]]] = {}

NUMBERS: dict[str, Callable[[Pass], dict[str, float]]] = {}
