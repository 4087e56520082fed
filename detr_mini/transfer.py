"""Starting from another detector's weights: what is kept, what is taken over by name, and what starts anew.

Backbone, encoder, decoder and box head do not care what the classes are called: they are kept as they are. The class
head has one row per class. A row is taken over where a class of the new data has the same name; the others start anew.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from detr_mini.checkpoints import CheckpointError
from detr_mini.data.labels import listed, matching_rows
from detr_mini.detr import Detr
from detr_mini.recipes import ModelRecipe
from detr_mini.weights import open_weights

CLASS_HEAD = re.compile(r"decoder\.class_head(\.\d+)?\.(weight|bias)")
PER_QUERY = ("decoder.query_embed.weight", "decoder.points.weight")  # one row per query


@dataclass
class Source:
    """Weights to start from. classes: name of every row of the class head, None for a row without one."""

    path: Path
    system: str
    recipe: ModelRecipe
    state: dict[str, Tensor]
    classes: list[str | None]


def read_source(place: Path | str) -> Source:
    """A file of `train` or an official `.pth`, here or at an http address. Raises as `weights.open_weights`."""
    found = open_weights(place)
    return Source(found.path, found.model.system, found.model.recipe, found.model.state_dict(), found.classes)


def shape_for(source: Source, system: str) -> ModelRecipe:
    """The shape that a detector must have to start from these weights; CheckpointError for another system's."""
    if source.system != system:
        raise CheckpointError(
            f"{source.path} holds weights of {source.system}, and {system} is to be trained: their parts differ. Give "
            f"--detector {source.system}, or weights of {system}"
        )
    return source.recipe


def start_from(model: Detr, source: Source, classes: list[str | None]) -> list[str]:
    """Fill a detector for `classes` with the source's weights; returns in words what was kept and what starts anew.

    Raises CheckpointError for another system, and naming every part that is missing or has another shape; the model is
    not touched then.
    """
    shape_for(source, model.system)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pairs = matching_rows(source.classes, classes)
    faults, kept, queries = [], 0, None
    for name, tensor in state.items():
        given = source.state.get(name)
        if given is not None and CLASS_HEAD.fullmatch(name):
            _copy_classes(tensor, given, pairs, model.recipe.head == "softmax")
        elif given is not None and given.shape == tensor.shape:
            tensor.copy_(given)
            kept += 1
        elif given is not None and name in PER_QUERY and given.shape[1:] == tensor.shape[1:]:
            queries = min(len(given), len(tensor))
            tensor[:queries] = given[:queries]
        else:
            faults.append(f"{name} {tuple(tensor.shape)}, there {None if given is None else tuple(given.shape)}")
    if faults:
        raise CheckpointError(f"{source.path} does not fit the model: {'; '.join(faults)}")
    model.load_state_dict(state)
    return [f"{source.path}: {kept} tensors kept (backbone, encoder, decoder, box head)",
            *_said(pairs, source.classes, classes), *_said_of_queries(queries, model.recipe.queries)]


def _copy_classes(tensor: Tensor, given: Tensor, pairs: list[tuple[int, int]], softmax: bool) -> None:
    """Rows of the class head, (C, d) or (C,); a softmax head keeps its last row, no-object, as well."""
    for there, here in pairs:
        tensor[here] = given[there]
    if softmax:
        tensor[-1] = given[-1]


def _said(pairs: list[tuple[int, int]], old: list[str | None], new: list[str | None]) -> list[str]:
    """The class head in words."""
    taken, used = {here for _, here in pairs}, {there for there, _ in pairs}
    groups = {
        "class head, taken over by name": [name for row, name in enumerate(new) if name and row in taken],
        "class head, starting anew": [name for row, name in enumerate(new) if name and row not in taken],
        "class head, left behind": [name for row, name in enumerate(old) if name and row not in used],
    }
    return [f"{words}: {listed(names)}" for words, names in groups.items() if names]


def _said_of_queries(copied: int | None, queries: int) -> list[str]:
    """The queries in words, where their number changed."""
    return [] if copied is None else [f"queries: {copied} taken over, {queries - copied} starting anew"]
