"""MeetingExplorer: what detectors say of a scene, with and without the queries' meetings, suppressed and not.

As in widgets.py: a pure function from state to figure, and a thin shell of sliders around it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from detr_mini.boxes import cxcywh_to_xyxy
from detr_mini.course.explorer import Explorer, choice, slider
from detr_mini.course.plots import BLUE, GREY, INK, VERMILLION, WIDTH, channels_last
from detr_mini.course.training_plots import frame
from detr_mini.course.without_meeting import suppress, verdicts
from detr_mini.data.transforms import build_transform, collate
from detr_mini.detr import Detr
from detr_mini.recipes import DataRecipe

HEIGHT = 4.0  # inches
LOOKS = {"first": BLUE, "again": VERMILLION}
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


@dataclass(frozen=True)
class Session:
    """What the learner sets: a detector, a scene, after which decoder layer, and from which score on boxes count."""

    detector: str = ""
    scene: int = 0
    layer: int = 0
    threshold: float = 0.3


@dataclass(frozen=True)
class Minutes:
    """What was said: images (S, 3, H, W) uint8, targets with labels and boxes (M, 4) cxcywh, and for every detector, by
    layer and scene, scores (K,), labels (K,), boxes (K, 4) xyxy in pixels, best first."""

    images: Tensor
    targets: Sequence[dict]
    said: Mapping[str, Sequence[Sequence[dict[str, Tensor]]]]


def listen(
    detectors: Mapping[str, Detr], dataset: torch.utils.data.Dataset, scenes: Sequence[int], data: DataRecipe
) -> Minutes:
    """Run detectors on some scenes of one size and keep what each decoder layer says."""
    items = [dataset[index] for index in scenes]
    batch = collate([build_transform(data, train=False)(*item) for item in items])
    sizes = torch.stack([target["orig_size"] for _, target in items])  # (S, 2)
    said = {}
    for name, model in detectors.items():
        with torch.no_grad():
            output = model(batch.images, batch.mask)
        cuts = range(1, len(output.logits) + 1)
        said[name] = [model.postprocess(output._replace(logits=output.logits[:cut], boxes=output.boxes[:cut]), sizes)
                      for cut in cuts]
    return Minutes(torch.stack([image for image, _ in items]), [target for _, target in items], said)


def sure(minutes: Minutes, state: Session) -> dict[str, Tensor]:
    """What a detector is sure of in a state."""
    found = minutes.said[state.detector][state.layer][state.scene]
    keep = found["scores"] >= state.threshold
    return {name: values[keep] for name, values in found.items()}


def both(minutes: Minutes, state: Session) -> list[tuple[str, dict[str, Tensor], list[str]]]:
    """(title, boxes, a verdict for each), before and after suppression."""
    found = sure(minutes, state)
    size, target = minutes.images.shape[2:], minutes.targets[state.scene]
    pairs = (("as it is", found), ("after suppression", suppress({0: found})[0]))
    return [(title, boxes, verdicts(target, boxes, size)) for title, boxes in pairs]


def render_session(minutes: Minutes, state: Session) -> Figure:
    """Two pictures: sure boxes, blue for the first on a thing, vermillion for one more, grey for those off; then those
    that suppression leaves. True boxes are dashed."""
    picture, truth = channels_last(minutes.images[state.scene]), minutes.targets[state.scene]["boxes"]
    height, width = picture.shape[:2]
    figure = Figure(figsize=(WIDTH, HEIGHT))
    shape = {"xlim": (-0.5, width - 0.5), "ylim": (height - 0.5, -0.5), "xticks": [], "yticks": []}
    places = [figure.add_axes((x, 0.01, 0.485, 0.91), **shape) for x in (0.0, 0.515)]
    for axes, (title, found, words) in zip(places, both(minutes, state), strict=True):
        axes.imshow(0.3 + 0.7 * picture)
        axes.set_title(f"{title}: {words.count('first')} found, {words.count('again')} again, {words.count('off')} off",
                       fontsize=10)
        for box in (cxcywh_to_xyxy(truth) * torch.tensor([width, height, width, height])).tolist():
            frame(axes, box, INK, 1.2, dashed=True)
        draw_said(axes, found, words)
    return figure


def draw_said(axes: Axes, found: dict[str, Tensor], words: list[str]) -> None:
    """The boxes in the colours of their verdicts, the surest on top; duplicates are dashed, too."""
    for box, word in reversed(list(zip(found["boxes"].tolist(), words, strict=True))):
        if word == "off":  # there may be many: thin, and without the white rim that the others have
            left, top, right, bottom = box
            axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=GREY, linewidth=1))
        else:
            frame(axes, box, LOOKS[word], 2.4 if word == "first" else 1.8, dashed=word == "again")


def describe_session(minutes: Minutes, state: Session) -> str:
    """One state in words."""
    (_, _, words), (_, _, after) = both(minutes, state)
    things = len(minutes.targets[state.scene]["labels"])
    return (f"{state.detector.capitalize()}, scene {state.scene}, after layer {state.layer + 1}, boxes with a score of "
            f"{state.threshold:g} or more. Things found: {words.count('first')} of {things}; duplicates: "
            f"{words.count('again')}; boxes off all things: {words.count('off')}. After suppression: things found "
            f"{after.count('first')}, duplicates {after.count('again')}, off {after.count('off')}.")


class MeetingExplorer(Explorer):
    """Sliders for detector, scene, layer and threshold over what was said.

    first: the state shown first; by default the first detector, after its last layer. Raises ValueError for one that is
    not there.
    """

    def __init__(self, minutes: Minutes, first: Session | None = None) -> None:
        names = list(minutes.said)
        layers = len(minutes.said[names[0]])
        first = first or Session(names[0], layer=layers - 1)
        there = (first.detector in names and 0 <= first.scene < len(minutes.images) and 0 <= first.layer < layers
                 and first.threshold in THRESHOLDS)
        if not there:
            raise ValueError(f"{first} is not there: detectors are {', '.join(names)}, with {len(minutes.images)} "
                             f"scenes and {layers} layers; thresholds are {', '.join(map(str, THRESHOLDS))}")
        controls = {
            "detector": choice("detector", first.detector, [(name, name) for name in names]),
            "scene": slider("scene", first.scene, len(minutes.images) - 1),
            "layer": choice("after layer", first.layer, [(str(index + 1), index) for index in range(layers)]),
            "threshold": choice("score from", first.threshold, [(f"{value:g}", value) for value in THRESHOLDS]),
        }
        super().__init__(first, controls, lambda state: render_session(minutes, state),
                         lambda state: describe_session(minutes, state),
                         "Sliders choose a detector, a scene, a decoder layer and a threshold.")
