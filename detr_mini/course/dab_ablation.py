"""Why is DAB-DETR slower than Conditional DETR on scenes? Something is taken out, 250 steps, and compared.

    python -m detr_mini.course.dab_ablation "same sides" --seeds 0 1 2
    # writes data/runs/dab_ablation/same_sides-seed0.jsonl and two more

The recorded race (data/runs/scenes) has both detectors as they are: same seed, same scenes, same order. No learning
rate falls, so the first 250 steps of a longer run are a run of 250 steps. Files are written as in race.py.

What is left between "neither" and Conditional DETR is every line in which the two files differ: how the encoder is
made, the activation, whether a layer's place passes its gradient on, where a query's position comes from, and where its
point comes from. `Bridge` takes them out one after the other. With all of them out it is Conditional DETR, number for
number (a test holds that), so the steps on the way account for the whole distance.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from detr_mini.attention import xavier
from detr_mini.course.race import HELD_OUT_SEED, evaluations, is_there, provenance, scenes_recipe, write_lines
from detr_mini.data.scenes import Scenes
from detr_mini.decoder import DecoderLayer, Queries
from detr_mini.detr import Detr
from detr_mini.encoder import Encoder
from detr_mini.evaluation import AveragePrecision, evaluate
from detr_mini.files import DATA
from detr_mini.positions import MLP, Grid
from detr_mini.recipes import DabModel
from detr_mini.training import fit
from detr_mini.variants.dab import DabDecoder, DabDetr

RUNS = DATA / "runs/dab_ablation"
STEPS, EVERY, SEEDS = 250, 125, (0, 1, 2)
QUICK = 20  # named before the first run: 250 steps then move an anchor as far as 5,000 do


@dataclass(frozen=True)
class Form:
    """DAB-DETR with something taken out. says: what. settings: of its recipe. start: what is done to a fresh one.

    made: parts made as Conditional DETR makes them, names of `BRIDGE`.
    """

    says: str
    settings: dict[str, float | bool] = field(default_factory=dict)
    start: Callable[[DabDetr], None] = lambda model: None
    made: tuple[str, ...] = ()


def same_sides(model: DabDetr) -> None:
    """Every anchor starts half as wide and high as the image, as Conditional DETR's boxes do. Centres stay random."""
    nn.init.zeros_(model.decoder.query_embed.weight[:, 2:].data)


class Times(nn.Module):
    """A parameter that is stored divided by a factor: one step of Adam moves it that much farther."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, stored: Tensor) -> Tensor:
        return stored * self.factor

    def right_inverse(self, value: Tensor) -> Tensor:
        return value / self.factor


def quick_anchors(model: DabDetr) -> None:
    """The anchors learn QUICK times as fast as the rest; they start where they did."""
    parametrize.register_parametrization(model.decoder.query_embed, "weight", Times(QUICK))


def quick_same_sides(model: DabDetr) -> None:
    """Both."""
    same_sides(model)
    quick_anchors(model)


def start_as_points(model: DabDetr) -> None:
    """The same sides, and the centres are where a fresh Conditional DETR's points are; still free numbers."""
    same_sides(model)
    width = model.recipe.d_model
    with torch.no_grad():
        points = xavier(MLP(width, width, 2))(torch.randn(model.recipe.queries, width))  # (Q, 2) logits
        model.decoder.query_embed.weight[:, :2] = points


BRIDGE = {
    "encoder": "the encoder is DETR's: positions are not scaled by the tokens, ReLU instead of PReLU",
    "activation": "ReLU instead of PReLU in the decoder",
    "gradient": "where a layer looks, it passes its gradient on to the anchor in all layers, not only in the first",
    "position": "a query's position is a learned vector, not an MLP of the code of its box",
    "point": "the centre is an MLP of that learned vector, not a learned pair of numbers; the sides are half the image",
}  # from "neither" to Conditional DETR, in this order


def bridge_decoder(made: tuple[str, ...]) -> type[DabDecoder]:
    """DAB-DETR's decoder with some parts made as Conditional DETR makes them.

    made: names of `BRIDGE`; "point" needs "position". Without modulation and update only.
    """

    class Bridge(DabDecoder):
        """See `bridge_decoder`."""

        def __init__(self, recipe: DabModel) -> None:
            super().__init__(recipe)
            if "position" in made:
                self.position_embed = nn.Embedding(recipe.queries, recipe.d_model)
                del self.position_head
            if "point" in made:
                self.point_head = xavier(MLP(recipe.d_model, recipe.d_model, 2))
                del self.query_embed

        def make_activation(self) -> nn.Module:
            return nn.ReLU() if "activation" in made else super().make_activation()

        def init_queries(self, memory: Tensor, grid: Grid) -> Queries:
            if "point" not in made:
                return super().init_queries(memory, grid)
            learned = self.position_embed.weight.expand(len(memory), -1, -1)  # (B, Q, d)
            point = self.point_head(learned).sigmoid()  # (B, Q, 2)
            reference = torch.cat([point, torch.full_like(point, 0.5)], dim=-1)  # sides: logit 0, half the image
            return Queries(torch.zeros_like(learned), learned, reference=reference)

        def anchor(self, layer: DecoderLayer, queries: Queries) -> Tensor:
            return queries.reference if "gradient" in made else super().anchor(layer, queries)

        def query_position(self, layer: DecoderLayer, queries: Queries) -> Tensor:
            if "position" not in made:
                return super().query_position(layer, queries)
            return self.position_embed.weight.expand(len(queries.content), -1, -1)  # (B, Q, d)

    return Bridge


def build(form: Form, recipe: DabModel) -> DabDetr:
    """A fresh detector of a form; ValueError for a part that is not one of `BRIDGE`, or a point without a position."""
    if unknown := [part for part in form.made if part not in BRIDGE]:
        raise ValueError(f"no part {unknown[0]!r}: choose one of {', '.join(BRIDGE)}")
    if "point" in form.made and "position" not in form.made:
        raise ValueError("the point is made from the learned position: add 'position'")
    parts: dict[str, type] = {"decoder_class": bridge_decoder(form.made)} if form.made else {}
    if "encoder" in form.made:
        parts["encoder_class"] = Encoder
    model = type("BridgeDetr", (DabDetr,), parts)(recipe)
    model.backbone.load_pretrained()
    form.start(model)
    return model


PLAIN = {"modulate": False, "refine": False, "key_temperature": 10000.0}
PARTS = {"modulation": "modulate", "update": "refine", "temperature": "key_temperature"}  # the novelties, one by one
NEITHER = "no modulation, no update, one temperature, and the same sides"
FORMS = {
    "same sides": Form("all anchors start with the same sides", start=same_sides),
    "no novelties": Form("no modulation, no update of the box, one temperature", PLAIN),
    "neither": Form(NEITHER, PLAIN, same_sides),
} | {f"no {part}": Form(f"only {part} is taken out", {setting: PLAIN[setting]})
     for part, setting in PARTS.items()}


def bridged(*made: str) -> Form:
    """"neither", with parts made as Conditional DETR makes them."""
    start = same_sides if "point" not in made else Form.start
    return Form(f"{NEITHER}; made as in Conditional DETR: {', '.join(made)}", PLAIN, start, made)


ORDER = tuple(BRIDGE)
# All parts up to one; with all five it is Conditional DETR, whose runs are in data/runs/scenes.
ON_THE_WAY = {f"up to {part}": bridged(*ORDER[: place + 1]) for place, part in enumerate(ORDER[:-1])}
# One part at a time, so that a part's worth does not hang on the order alone. The first is "up to encoder".
ALONE = {f"only {part}": bridged(part) for part in ORDER[1:4]} | {"only point": bridged("position", "point")}
# Two controls for the last part: is it where the points start, or how far they get?
CONTROLS = {
    "started there": Form(f"{NEITHER}; centres start where Conditional DETR's points do", PLAIN, start_as_points),
    "quick anchors": Form(f"{NEITHER}; anchors learn {QUICK} times as fast", PLAIN, quick_same_sides),
    "whole, quick": Form(f"nothing is taken out; anchors learn {QUICK} times as fast", start=quick_anchors),
}
FORMS |= ON_THE_WAY | ALONE | CONTROLS


def path_of(name: str, seed: int, folder: Path = RUNS) -> Path:
    """The file of a form's run."""
    return folder / f"{name.replace(',', '').replace(' ', '_')}-seed{seed}.jsonl"


def record(name: str, seed: int = 0, folder: Path = RUNS, steps: int = STEPS, every: int = EVERY) -> Path:
    """Train one of FORMS and write its file. ValueError, naming the choices, for another name."""
    if name not in FORMS:
        raise ValueError(f"no form {name!r}: choose one of {', '.join(FORMS)}")
    form, recipe, results = FORMS[name], scenes_recipe("dab", steps), []
    recipe = replace(recipe, model=replace(recipe.model, **form.settings))
    held_out = Scenes(400, seed=HELD_OUT_SEED)

    def measure(detector: Detr) -> AveragePrecision:
        result = evaluate(detector, held_out, recipe.data, batch_size=50)
        results.append(result.to_dict())
        return result

    torch.manual_seed(seed)
    model = build(form, recipe.model)
    done = fit(model, Scenes(4000, seed=0), recipe, evaluate=measure, evaluate_every=every, seed=seed, progress=False)
    head = provenance("dab", recipe, seed, __spec__.name) | {"form": name, "says": form.says}
    write_lines(path_of(name, seed, folder), [head, *evaluations(done.history, results)])
    return path_of(name, seed, folder)


def read_ablation(step: int = STEPS, folder: Path = RUNS) -> dict[str, list[float]]:
    """AP50 of each recorded form at a step, 125 or 250, one figure per seed."""
    found = {}
    for name in FORMS:
        runs = [path_of(name, seed, folder).read_text().splitlines()[1:] for seed in SEEDS]
        found[name] = [row["ap50"] for rows in runs for row in map(json.loads, rows) if row["step"] == step]
    return found


def main() -> None:
    """The command line: one form, or all of them; one seed, or several. A run whose file is there is not repeated."""
    parser = argparse.ArgumentParser(prog="python -m detr_mini.course.dab_ablation", description=__doc__.split("\n")[0])
    parser.add_argument("forms", nargs="*", default=list(FORMS), help=f"any of: {', '.join(FORMS)}")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS), help="(default: 0 1 2)")
    parser.add_argument("--to", type=Path, default=RUNS, help="the folder to write to")
    given = parser.parse_args()
    for name in given.forms:
        for seed in given.seeds:
            if not is_there(path_of(name, seed, given.to)):
                print(record(name, seed, given.to), flush=True)


if __name__ == "__main__":
    main()
