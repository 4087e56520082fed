"""Starting from another detector's weights: what is kept, what is taken over by name, and what starts anew.

Backbone, encoder, decoder and box head do not care what the classes are called: they are kept as they are. The class
head has one row per class. A row is taken over where a class of the new data has the same name; the others start anew.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from detr_mini import zoo
from detr_mini.checkpoints import CheckpointError, from_bytes, load_official, read_facts, read_official
from detr_mini.detr import Detr
from detr_mini.key_maps import recognise
from detr_mini.recipes import ModelRecipe

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


def read_source(path: Path | str) -> Source:
    """A file of `train`, or an official `.pth`. Raises FileNotFoundError, or CheckpointError naming what is wrong."""
    path = Path(path)
    if path.suffix in (".pth", ".pt"):
        return _official(path)
    facts = read_facts(path)
    recipe = zoo.from_description(str(facts["system"]), dict(facts["recipe"])).recipe
    with safe_open(path, "pt") as file:
        state = from_bytes({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (not a dict)
    return Source(path, str(facts["system"]), recipe, state, list(facts.get("classes", [])))


def _official(path: Path) -> Source:
    """An authors' checkpoint for COCO: the first of the system's published forms that it fits."""
    state = read_official(path)
    system = recognise(list(state))
    if system not in zoo.names():
        raise CheckpointError(f"{path} is no checkpoint of a detector that is here ({', '.join(zoo.names())})")
    for preset, recipe in zoo.presets(system).items():
        if preset.startswith("coco"):
            try:
                model = load_official(zoo.build(system, preset), state)
                return Source(path, system, recipe.model, model.state_dict(), coco_classes())
            except CheckpointError as error:
                fault = error
    raise CheckpointError(f"{path} is a checkpoint of {system}, and fits none of its published forms: {fault}")


def coco_classes() -> list[str | None]:
    """COCO's 91 rows by category id, as torchvision lists them; None in the gaps."""
    names = FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    return [None if name in ("N/A", "__background__") else name for name in names]


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


def matching_rows(old: list[str | None], new: list[str | None]) -> list[tuple[int, int]]:
    """(row there, row here) of every class that has the same name in both, upper and lower case alike."""
    rows = {name.strip().lower(): row for row, name in reversed(list(enumerate(old))) if name}
    return [(rows[name.strip().lower()], row) for row, name in enumerate(new) if name and name.strip().lower() in rows]


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


def listed(names: list[str], shown: int = 8) -> str:
    """A few names and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _said_of_queries(copied: int | None, queries: int) -> list[str]:
    """The queries in words, where their number changed."""
    return [] if copied is None else [f"queries: {copied} taken over, {queries - copied} starting anew"]
