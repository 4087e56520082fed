"""Which published form an authors' checkpoint is.

Its tensors tell most: number of queries, patterns, levels, heads. A dilated last stage (DC5) leaves no trace in them.
There the training options that many checkpoints carry are asked, then the file's name, and where neither says, the
first form is taken. `--preset` chooses another.
"""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from detr_mini import zoo
from detr_mini.checkpoints import CheckpointError, Official, faults_of, official_to_ours
from detr_mini.key_maps import recognise
from detr_mini.published import Form, published
from detr_mini.recipes import ModelRecipe

# What leaves no trace in the tensors: the authors' option, and our field.
UNSEEN = {"dilation": "dilation", "nheads": "heads", "pe_temperatureH": "key_temperature"}
REFINED = "transformer.decoder.bbox_embed."  # a part of the names where every layer corrects the box
DEEPER = "backbone.body.layer3.6.conv1.weight"  # ResNet-50's third stage has blocks 0 to 5


def coco_classes() -> list[str | None]:
    """COCO's 91 rows by category id, as torchvision lists them; None in the gaps."""
    names = FasterRCNN_ResNet50_FPN_Weights.DEFAULT.meta["categories"]
    return [None if name in ("N/A", "__background__") else name for name in names]


def recognise_form(checkpoint: Official, name: str, preset: str | None = None) -> tuple[str, str, str]:
    """The detector and the published form of a checkpoint, and in words how they were told.

    name: of the file. preset: the form that the user chose. Raises CheckpointError when the checkpoint is of no
    detector that is here, or fits no form, or not the one chosen; ValueError for a preset that does not exist.
    """
    system = recognise(list(checkpoint.state))
    if system not in zoo.names():
        what = f"a checkpoint of {system}, which is not here" if system else "of no detector that is known here"
        raise CheckpointError(f"{name} is {what}: there are {', '.join(zoo.names())}")
    forms = published(system)
    if preset is not None and preset not in forms:
        raise ValueError(f"{system} has no published form {preset!r}: choose one of {', '.join(forms)}")
    shapes = {one: replace(form.recipe.model, dilation=False) for one, form in forms.items()}  # as far as tensors go
    judged = {shape: fault_of(checkpoint.state, system, shape) for shape in set(shapes.values())}
    faults = {one: judged[shape] for one, shape in shapes.items()}
    fitting = [one for one, fault in faults.items() if fault is None]
    if preset is not None and preset not in fitting:
        others = f"; it fits {', '.join(fitting)}" if fitting else ""
        raise CheckpointError(f"{name} does not fit {system}'s {preset}: {faults[preset].words}{others}")
    if not fitting:
        nearest = min(faults, key=lambda one: faults[one].tensors)
        raise CheckpointError(
            f"{name} is a checkpoint of {system} and fits none of its published forms ({', '.join(forms)}); nearest is "
            f"{nearest}: {faults[nearest].words}"
        )
    chosen, why = (preset, "as you said") if preset else narrowed(fitting, forms, checkpoint, name)
    return system, chosen, f"{name}: {system}, published form {chosen} ({why})"


@dataclass(frozen=True)
class Fault:
    """Why tensors do not fit a form, and how many of them."""

    words: str
    tensors: int


def fault_of(state: dict[str, Tensor], system: str, recipe: ModelRecipe) -> Fault | None:
    """Why an official state dict does not fit a model of this shape; None where it does. No model is filled."""
    wanted = wanted_by(system, recipe)
    try:
        ours = official_to_ours(system, state, wanted)
    except CheckpointError as error:
        return Fault(str(error), len(state))
    faults = faults_of(wanted, ours)
    said = [f"{kind}: {names[0]} and {len(names) - 1} more" for kind, names in faults.items() if names]
    count = sum(map(len, faults.values()))
    return Fault("; ".join([*hints(ours, wanted), *said]), count) if count else None


@cache
def wanted_by(system: str, recipe: ModelRecipe) -> dict[str, Tensor]:
    """The tensors of a model of this shape, without memory behind them."""
    with torch.device("meta"):
        return zoo.entry(system).detector(recipe).state_dict()


def hints(ours: dict[str, Tensor], wanted: dict[str, Tensor]) -> list[str]:
    """The usual reasons why a checkpoint fits no form."""
    rows = [(len(ours[name]), len(wanted[name])) for name in wanted if "class_head" in name and name in ours]
    other = [f"its class head has {there} rows, COCO's {here}" for there, here in rows if there != here]
    return ["its backbone is deeper than ResNet-50"] * (DEEPER in ours) + other[:1]


def narrowed(fitting: list[str], forms: dict[str, Form], checkpoint: Official, name: str) -> tuple[str, str]:
    """One of the forms that fit the tensors, and why. CheckpointError when the training options exclude all."""
    refined = any(REFINED in tensor for tensor in checkpoint.state)
    fitting = [one for one in fitting if getattr(forms[one].recipe.model, "refine", refined) == refined] or fitting
    alike = f"{' and '.join(fitting)} have the same tensors"
    told = {option: checkpoint.told[option] for option in UNSEEN if option in checkpoint.told}
    agreeing = [one for one in fitting if all(agrees(forms[one], *pair) for pair in told.items())]
    if not agreeing:
        options = ", ".join(f"{option}={value!r}" for option, value in told.items())
        raise CheckpointError(
            f"{name} was trained with {options}, in which no published form agrees with it; its tensors fit "
            f"{', '.join(fitting)}: choose with --preset, at your own risk"
        )
    if len(fitting) == 1:
        return fitting[0], "its tensors fit no other"
    if len(agreeing) == 1:
        return agreeing[0], f"{alike}; its training options say which"
    dilated = [one for one in agreeing if forms[one].recipe.model.dilation]
    if dilated and "dc5" in name.lower():
        return dilated[0], f"{alike}; its name says which"
    return agreeing[0], f"{alike}, and nothing says which: --preset chooses another"


def agrees(form: Form, option: str, value: object) -> bool:
    """Whether one of the authors' training options is that of a form; options that a detector lacks always are."""
    return getattr(form.recipe.model, UNSEEN[option], value) == value
