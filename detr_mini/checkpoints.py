"""Checkpoints: our own weights as safetensors, and the authors' checkpoints under their names.

Nothing is ever unpickled freely. Our files are safetensors, with the detector's name and recipe inside. An official
`.pth` is read by PyTorch's `weights_only` loader; the one foreign class it may name is argparse.Namespace, which
holds the authors' training options. Of those, plain numbers and words are kept.
"""

import argparse
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from detr_mini import zoo
from detr_mini.description import (
    FORMAT,
    SCALE,
    CheckpointError,
    in_words,
    read_description,
    read_facts,
    shape_faults,
)
from detr_mini.detr import Detr
from detr_mini.files import atomic
from detr_mini.key_maps import KEY_MAPS, KeyMap, recognise, translate

__all__ = ["CheckpointError", "read_facts", "save_weights", "load_weights", "read_official", "load_official"]
HOLDERS = ("model", "state_dict")  # where a checkpoint keeps its tensors: the authors' code, Lightning
COUNTERS = ("num_batches_tracked", "total_ops", "total_params")  # of BatchNorm, and of a tool that counts operations


def save_weights(model: Detr, path: Path | str, half: bool = False, quarter: bool = False, **facts: object) -> None:
    """Write a detector to one safetensors file, atomically.

    half: store float16, which halves the file. quarter: store matrices in 8 bits, see `in_bytes`, and the rest as
    float16. facts: anything JSON can hold (class names, steps, ...); it comes back from `read_facts`.
    """
    state = model.state_dict()
    if quarter:
        state = {key: value for name, tensor in state.items() for key, value in in_bytes(name, tensor).items()}
    elif half:
        state = {name: tensor.half() for name, tensor in state.items()}
    described = {"format": FORMAT, "system": model.system, "recipe": asdict(model.recipe)} | facts
    with atomic(path, SafetensorError) as temporary:
        contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(contiguous, temporary, {key: json.dumps(value) for key, value in described.items()})


def in_bytes(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """A matrix (out, ...) as whole numbers from -127 to 127 and one scale (out, 1, ...) per row; others as float16."""
    if tensor.ndim < 2:
        return {name: tensor.half()}
    scale = (tensor.abs().amax(dim=tuple(range(1, tensor.ndim)), keepdim=True) / 127).clamp(min=1e-7).half()
    return {name: (tensor / scale.float()).round().clamp(-127, 127).to(torch.int8), name + SCALE: scale}


def from_bytes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reverse: every tensor as float32, multiplied by its scale where it has one."""
    one = torch.ones(())
    return {
        name: tensor.float() * state.get(name + SCALE, one).float()
        for name, tensor in state.items() if not name.endswith(SCALE)
    }


def load_weights(path: Path | str) -> Detr:
    """The detector in a weights file, built from the recipe inside it, in eval mode, on the CPU.

    Raises FileNotFoundError, or CheckpointError naming what does not fit.
    """
    found = read_description(path)
    model = zoo.build_bare(found.system, found.recipe)
    model.load_state_dict(from_bytes(load_file(path)))
    return model.eval()


@dataclass(frozen=True)
class Official:
    """An authors' checkpoint: its tensors, its training options (plain values), the epochs it was trained for."""

    state: dict[str, Tensor]
    told: dict[str, object]
    epochs: int | None


def read_checkpoint(path: Path | str) -> Official:
    """What is in an official `.pth`, without running any code that may hide in it.

    Raises FileNotFoundError, or CheckpointError for a truncated or foreign file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint of tensors ({reason(error)}): expected a whole .pth file with "
            "a state dict, or a dict whose 'model' is one"
        ) from error
    state = next((content[key] for key in HOLDERS if key in content), content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path} holds no state dict: expected tensors by name, at the top or under 'model' or "
                              "'state_dict'")
    if strange := [name for name in state if not isinstance(name, str)]:
        raise CheckpointError(f"{path} has a tensor under {strange[0]!r:.60}: expected names, such as "
                              "'transformer.encoder...'")
    if "identity" in content:
        raise CheckpointError(f"{path} is the state of a run: take final.safetensors or best.safetensors beside it")
    told = {name: value for name, value in options_in(content).items() if isinstance(value, bool | int | float | str)}
    epoch = content.get("epoch")  # counted from 0
    return Official(unwrapped(state), told, epoch + 1 if isinstance(epoch, int) else told.get("epochs"))


def unwrapped(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors without what wrappers put before their names: "model." of Lightning, "module." of data-parallel training,
    "_orig_mod." of torch.compile. A prefix is taken off when all names share it; buffers of a loss are left out."""
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()
             if not name.startswith("criterion.")}
    while state and len({name.partition(".")[0] for name in state}) == 1 and all("." in name for name in state):
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}
    return state


def options_in(content: dict[str, object]) -> dict[str, object]:
    """The training options beside the model, if there are any."""
    options = content.get("args")
    return dict(vars(options)) if isinstance(options, argparse.Namespace) else {}


def reason(error: Exception) -> str:
    """Why a file could not be read, in a few words. PyTorch's own advice, to load without care, is left out."""
    refused = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    if refused:
        return f"it wants to call {refused[1]}, which no tensor needs; it was not called"
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def read_official(path: Path | str) -> dict[str, Tensor]:
    """The state dict in an official `.pth`; see `read_checkpoint`."""
    return read_checkpoint(path).state


def load_official(model: Detr, state: dict[str, Tensor]) -> Detr:
    """Fill a detector with an official state dict. Returns the model.

    Accepts the prefixes that DistributedDataParallel ("module.") and segmentation models ("detr.") add, and drops
    counters. Raises CheckpointError for another system's checkpoint (naming it), and for missing, unexpected and
    wrongly shaped tensors (naming them); the model is not touched then.
    """
    found = recognise(list(state))
    if found != model.system:
        what = f"a checkpoint of {found}" if found else "no checkpoint of a detector we know"
        raise CheckpointError(f"this is {what}, and the model is {model.system}: build the model that fits it")
    wanted = model.state_dict()
    ours = official_to_ours(model.system, state, wanted)
    check_names(wanted, ours, "the official checkpoint")
    model.load_state_dict(ours)
    return model


def official_to_ours(system: str, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict under our names, without prefixes and counters. Raises as `rename`."""
    kept = {strip(name): tensor for name, tensor in state.items() if not name.endswith(COUNTERS)}
    return rename(kept, KEY_MAPS[system], wanted)


def rename(state: dict[str, Tensor], key_map: KeyMap, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """An official state dict under our names; a name that the map does not know stays as it is.

    Official files repeat a tensor under several names. CheckpointError when such copies differ: then the checkpoint's
    layers have tensors of their own where the model's share one.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        names = translate(name, key_map, wanted) or [name]
        for one, part in zip(names, tensor.chunk(len(names)), strict=False):
            if one in ours and not torch.equal(ours[one], part):
                raise CheckpointError(
                    f"{name} differs from another tensor of the checkpoint, and the model has one for both ({one}): "
                    "build the model with the options that the checkpoint was trained with"
                )
            ours[one] = part
    return ours


def strip(name: str) -> str:
    """A name without the prefixes that wrappers add."""
    return name.removeprefix("module.").removeprefix("detr.")


def faults_of(wanted: dict[str, Tensor], given: dict[str, Tensor]) -> dict[str, list[str]]:
    """Every missing, unexpected and wrongly shaped tensor by kind."""
    return shape_faults(*({name: tuple(tensor.shape) for name, tensor in state.items()} for state in (wanted, given)))


def check_names(wanted: dict[str, Tensor], given: dict[str, Tensor], source: str) -> None:
    """CheckpointError naming every missing, unexpected and wrongly shaped tensor, if there are any."""
    if said := in_words(faults_of(wanted, given)):
        raise CheckpointError(f"{source} does not fit the model: {said}")


def to_official(system: str, tensors: dict[str, Tensor], official: list[str]) -> dict[str, Tensor]:
    """Our tensors (weights or gradients, by our names) under the official names, stacked where those stack.

    Names whose tensors are not all there are left out. Raises CheckpointError for a name that the map does not know.
    """
    result: dict[str, Tensor] = {}
    for name in official:
        names = translate(name, KEY_MAPS[system], tensors)
        if names is None:
            raise CheckpointError(f"{name} is not a name of an official {system} checkpoint")
        if all(part in tensors for part in names):
            result[name] = torch.cat([tensors[part] for part in names])
    return result
