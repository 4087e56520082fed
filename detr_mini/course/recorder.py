"""A recorder: what a detector sees and says on a few fixed images, at chosen steps of its training.

    recorder = Recorder(held_out, images=[0, 1], data=recipe.data, loss=recipe.loss, steps=[10, 100, 1000])
    recorder.look(model, step=0)                          # before the first step
    fit(model, train_set, recipe, callbacks=(recorder,))
    recording = recorder.recording()                      # tensors, one row per step
    recording.save("replay.safetensors")

Looking changes nothing: the model is in evaluation mode meanwhile and back in its own mode afterwards, no gradient
is kept, and the random state is put back. A run with a recorder ends at the same weights as one without.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset

from detr_mini.data.transforms import Batch, build_transform, collate
from detr_mini.decoder import DetectorOutput
from detr_mini.detr import Detr
from detr_mini.evaluation import evaluating
from detr_mini.files import atomic
from detr_mini.losses import SetCriterion
from detr_mini.matching import Matches
from detr_mini.recipes import DataRecipe, LossRecipe
from detr_mini.trace import AttentionTrace
from detr_mini.training import Step

FORMAT = "detr_mini recording 1"
TENSORS = ("images", "logits", "boxes", "owners", "attention")


@dataclass
class Recording:
    """What was seen, S looks at B images. L decoder layers, Q queries, C classes, h x w cells of the feature map.

    steps: (S,) training steps. images: (B, 3, H, W) uint8. targets: per image labels (M,), boxes (M, 4) cxcywh.
    logits: (S, L, B, Q, C). boxes: (S, L, B, Q, 4) cxcywh. owners: (S, L, B, Q), which object of its image a query was
    matched with, -1 for none. attention: (S, L, B, heads, Q, h, w) of the decoder's cross-attention.
    losses: name -> (S, L), unweighted, over all images together.
    """

    steps: list[int]
    images: Tensor
    targets: list[dict[str, Tensor]]
    logits: Tensor
    boxes: Tensor
    owners: Tensor
    attention: Tensor
    losses: dict[str, Tensor]

    def at(self, step: int) -> int:
        """The row of a step; ValueError naming the recorded ones."""
        if step not in self.steps:
            raise ValueError(f"step {step} was not recorded; recorded: {', '.join(map(str, self.steps))}")
        return self.steps.index(step)

    def flips(self, layer: int = -1) -> Tensor:
        """How unstable the matching is: the part of all objects whose query changed since the look before, (S - 1,)."""
        owners = self.owners[:, layer]  # (S, B, Q)
        held = owners[1:] >= 0
        changed = (held & (owners[1:] != owners[:-1])).sum((1, 2))  # (S - 1,)
        return changed / held.sum((1, 2)).clamp(min=1)

    def slim(self) -> "Recording":
        """The last layer only, its heads averaged: a small file that TrainingReplay can still show. L and heads are 1.

        All layers' losses stay.
        """
        last = {name: getattr(self, name)[:, -1:] for name in ("logits", "boxes", "owners")}
        return replace(self, attention=self.attention[:, -1:].mean(3, keepdim=True), **last)

    def save(self, path: Path | str, **facts: object) -> None:
        """Write everything to one safetensors file, atomically; floating numbers in half precision.

        facts: where the recording comes from, anything that JSON can hold; see `read_recording_facts`.
        """
        tensors = {name: compact(getattr(self, name)) for name in TENSORS}
        tensors |= {f"losses.{name}": values for name, values in self.losses.items()}
        for index, target in enumerate(self.targets):
            tensors |= {f"targets.{index}.{name}": target[name] for name in ("labels", "boxes")}
        described = {name: json.dumps(fact) for name, fact in facts.items()}
        described |= {"format": FORMAT, "steps": json.dumps(self.steps)}
        with atomic(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, described)


def compact(values: Tensor) -> Tensor:
    """Floats in half precision, small whole numbers in one byte."""
    if values.is_floating_point():
        return values.half()
    return values if values.dtype == torch.uint8 else values.to(torch.int8)


def load_recording(path: Path | str) -> Recording:
    """A saved recording. Raises FileNotFoundError, or ValueError for a file that is not one."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no recording at {path}")
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error})") from error
    if facts.get("format") != FORMAT:
        raise ValueError(f"{path} is a safetensors file of format {facts.get('format')!r}, not {FORMAT!r}")
    wide = {name: widen(tensor) for name, tensor in tensors.items()}
    losses = {name.removeprefix("losses."): value for name, value in wide.items() if name.startswith("losses.")}
    targets = [{name: wide[f"targets.{index}.{name}"] for name in ("labels", "boxes")}
               for index in range(len(wide["images"]))]
    rest = {name: wide[name] for name in TENSORS}
    return Recording(json.loads(facts["steps"]), targets=targets, losses=losses, **rest)


def read_recording_facts(path: Path | str) -> dict[str, object]:
    """What a recording says about itself: its steps, and the facts that it was saved with."""
    with safe_open(path, "pt") as file:
        return {name: json.loads(fact) for name, fact in file.metadata().items() if name != "format"}


def widen(values: Tensor) -> Tensor:
    """The reverse of `compact`, in the types that are computed with."""
    if values.is_floating_point():
        return values.float()
    return values if values.dtype == torch.uint8 else values.long()


@dataclass
class Look:
    """One look: the entries of a Recording without their first axis."""

    step: int
    logits: Tensor
    boxes: Tensor
    owners: Tensor
    attention: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)


class Recorder:
    """A callback for `fit` that looks at fixed images after chosen steps.

    dataset, images: which images, by index; they need one size after the evaluation transform only as any batch does.
    data, loss: the parts of the recipe that prepare images and match. steps: after which steps to look.
    """

    def __init__(
        self, dataset: Dataset, images: Sequence[int], data: DataRecipe, loss: LossRecipe, steps: Iterable[int]
    ) -> None:
        items, transform = [dataset[index] for index in images], build_transform(data, train=False)
        self.originals = torch.stack([image for image, _ in items])  # (B, 3, H, W) uint8
        self.batch: Batch = collate([transform(*item) for item in items])
        self.loss, self.steps, self.looks = loss, frozenset(steps), []

    def __call__(self, step: Step) -> None:
        if step.number in self.steps:
            self.look(step.model, step.number)

    def look(self, model: Detr, step: int) -> Look:
        """Look now, and keep what is seen under this step. Returns it."""
        device = next(model.parameters()).device
        batch, criterion = self.batch.to(device), SetCriterion(self.loss, model.recipe.classes, model.recipe.head)
        state = torch.get_rng_state()
        with evaluating(model), torch.no_grad(), AttentionTrace(model) as trace:
            output = model(batch.images, batch.mask)
            losses = criterion(output, batch.targets)
            names = [f"decoder.layers.{index}.cross_attention" for index in range(len(output.logits))]
            attention = torch.stack([trace.maps(name) for name in names])  # (L, B, heads, Q, h, w)
        torch.set_rng_state(state)
        owners, kept = owners_of(criterion.matches, output), by_layer(losses, len(output.logits))
        seen = Look(step, output.logits.cpu(), output.boxes.cpu(), owners, attention.cpu(), kept)
        self.looks.append(seen)
        return seen

    def recording(self) -> Recording:
        """All looks so far as one Recording; ValueError when there is none."""
        if not self.looks:
            raise ValueError("nothing was recorded: no chosen step was reached, and `look` was not called")
        stacked = {
            name: torch.stack([getattr(look, name) for look in self.looks])
            for name in ("logits", "boxes", "owners", "attention")
        }
        losses = {name: torch.stack([look.losses[name] for look in self.looks]) for name in self.looks[0].losses}
        targets = [{name: target[name] for name in ("labels", "boxes")} for target in self.batch.targets]
        return Recording([look.step for look in self.looks], self.originals, targets, losses=losses, **stacked)


def owners_of(matches: Matches, output: DetectorOutput) -> Tensor:
    """Which object each query answers for, (L, B, Q) on the CPU; -1 for none."""
    owners = torch.full(output.boxes.shape[:3], -1)
    owners[matches.layer.cpu(), matches.image.cpu(), matches.query.cpu()] = matches.target.cpu()
    return owners


def by_layer(losses: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    """{"loss_ce": last layer, "loss_ce_0": first layer, ...} as {"loss_ce": (L,)}, first layer first."""
    kinds = [name for name in losses if not name[-1].isdigit() and not name.endswith("_enc")]
    early = {kind: [losses[f"{kind}_{index}"] for index in range(layers - 1)] for kind in kinds}
    return {kind: torch.stack([*early[kind], losses[kind]]).detach().cpu() for kind in kinds}
