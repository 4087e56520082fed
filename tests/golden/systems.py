"""What the golden files of one system have that those of another have not.

BUILDERS: the detector of a case, from its JSON facts. OBSERVERS: the arrays that only this system has, read off the
trace of the pass that is compared. NUMBERS: losses that this system's authors log beside those of DETR.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detr_mini.decoder import DetectorOutput
from detr_mini.detr import Detr
from detr_mini.matching import Matches
from detr_mini.recipes import AnchorModel, DabModel, DeformableModel, ModelRecipe, SamModel, SmcaModel
from detr_mini.trace import AttentionTrace
from detr_mini.variants.anchor import AnchorDetr
from detr_mini.variants.conditional import ConditionalDetr
from detr_mini.variants.dab import DabDetr
from detr_mini.variants.deformable import DeformableDetr
from detr_mini.variants.sam import SamDetr
from detr_mini.variants.smca import SmcaDetr


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


def conditional_detr(facts: dict) -> Detr:
    return ConditionalDetr(ModelRecipe(dropout=0.0, queries=300, head="focal"))


def recorded(trace: AttentionTrace, modules: str, kind: str, first: int = 0) -> Tensor:
    """What one kind of module (a pattern for its name) recorded under one name, of every layer from `first` on."""
    names = sorted(name for name in trace.records if re.search(modules, name))
    return torch.stack([getattr(trace[name], kind) for name in names[first:]])  # (L, B, ...)


def conditional_arrays(seen: Pass) -> dict[str, Tensor]:
    return {
        "reference_points": seen.trace["decoder"].reference[0, :, :10],
        "query_scale_first16": recorded(seen.trace, "cross_attention", "place_scale", first=1)[:, 0, 0, :16],
    }


def deformable_detr(facts: dict) -> Detr:
    refine, two_stage = facts["mode"] in ("refine", "twostage"), facts["mode"] == "twostage"
    levels = facts["architecture"]["num_feature_levels"]
    return DeformableDetr(DeformableModel(dropout=0.0, levels=levels, refine=refine, two_stage=two_stage))


def deformable_arrays(seen: Pass) -> dict[str, Tensor]:
    trace, refine = seen.trace, seen.model.recipe.refine
    entered = trace["decoder"].reference  # per layer, the reference with which it was entered
    after = [entered[1:], seen.output.boxes[-1:].detach()] if refine else [entered]
    arrays = {
        "init_reference": entered[0][:, :10, : 4 if seen.model.recipe.two_stage else 2],
        "inter_references": torch.cat(after)[:, :, :10],
    }
    places = {"enc_first_token0": "encoder.layers.0.self_attention", "dec_first": "decoder.layers.0.cross_attention",
              "dec_last": f"decoder.layers.{len(entered) - 1}.cross_attention"}
    for place, name in places.items():
        arrays[f"sampling_loc_{place}"] = trace[name].locations[:, 0]  # (B, heads, levels, points, 2)
        arrays[f"sampling_weight_{place}"] = trace[name].weights[:, 0]
    return arrays | (first_stage_arrays(seen) if seen.model.recipe.two_stage else {})


def first_stage_arrays(seen: Pass) -> dict[str, Tensor]:
    record, (logits, boxes, _) = seen.trace["decoder.first_stage"], seen.output.proposals
    ranked = logits[0, ..., 0].gather(1, record.chosen)  # (B, Q)
    return {
        "topk_index": record.chosen,
        "topk_logit_first32": ranked[:, :32],
        "enc_boxes_first10": boxes[0, :, :10],
        "enc_logits_first16": logits[0].flatten(1)[:, :16],
        "enc_invalid": torch.from_numpy(np.packbits(~record.usable.numpy(), axis=1)),
    }


def smca(facts: dict) -> Detr:
    return SmcaDetr(SmcaModel(dropout=0.0))


def smca_arrays(seen: Pass) -> dict[str, Tensor]:
    terms = recorded(seen.trace, r"cross_attention$", "gaussian")[:, :, 0, 0]  # (L, B, HW)
    return {
        "gaussian_first": terms[0], "gaussian_last": terms[-1],
        "centre": seen.trace["decoder"].reference[0, :, :10],
        "offset": recorded(seen.trace, r"cross_attention\.prior", "offset")[:, :, :10],
        "scale_raw": recorded(seen.trace, r"cross_attention\.prior", "scale")[:, :, :10],
    }


def anchor_detr(facts: dict) -> Detr:
    return AnchorDetr(AnchorModel(decoupled=facts["architecture"]["attention_type"] == "RCDA"))


def anchor_arrays(seen: Pass) -> dict[str, Tensor]:
    layers, position = len(seen.output.boxes), seen.trace[""].position
    if not seen.model.recipe.decoupled:
        return {"posemb_2d_first16": position[0, 0, :16]}  # cell (0, 0)
    rows, columns = position.split(list(seen.trace[""].shapes[0]), dim=1)  # (B, H, d), (B, W, d)
    arrays = {
        "posemb_row_probe": columns[1, 2], "posemb_col_probe": rows[1, 1],
        "posemb_2d_first16": seen.trace["decoder"].position[0, 0, 0, :16],  # point 0
    }
    for place, layer in (("first", 0), ("last", layers - 1)):
        record = seen.trace[f"decoder.layers.{layer}.cross_attention"]
        arrays[f"xattn_row_{place}"] = record.row_weights[:, 0, 0]
        arrays[f"xattn_col_{place}"] = record.column_weights[:, 0, 0]
    return arrays


def dab_detr(facts: dict) -> Detr:
    return DabDetr(DabModel(patterns=facts["architecture"]["num_patterns"]))


def dab_arrays(seen: Pass) -> dict[str, Tensor]:
    trace = seen.trace
    return {
        "reference_boxes": trace["decoder"].reference[:, :, :10],
        "query_scale_first16": recorded(trace, "cross_attention", "place_scale", first=1)[:, 0, 0, :16],
        "ref_hw": recorded(trace, "cross_attention", "size")[:, :, :10],
        "query_pos_first16": recorded(trace, r"decoder.*self_attention", "position")[:, 0, 0, :16],
        "enc_query_scale_first16": recorded(trace, r"encoder.*self_attention", "position_scale")[:, 0, 0, :16],
    }


def side_losses(seen: Pass) -> dict[str, float]:
    """L1 of centres (loss_xy) and of sides (loss_hw) per object, for every layer; logged, not trained on."""
    matches, numbers = seen.matches, {}
    count, last = sum(len(target["labels"]) for target in seen.targets), len(seen.output.boxes) - 1
    for layer, boxes in enumerate(seen.output.boxes.detach()):
        chosen = matches.layer == layer
        pairs = zip(matches.image[chosen].tolist(), matches.query[chosen], matches.target[chosen], strict=True)
        far = torch.stack([(boxes[image, query] - seen.targets[image]["boxes"][target]).abs()
                           for image, query, target in pairs])  # (pairs, 4)
        suffix = "" if layer == last else f"_{layer}"
        numbers[f"loss_xy{suffix}"] = float(far[:, :2].sum() / count)
        numbers[f"loss_hw{suffix}"] = float(far[:, 2:].sum() / count)
    return numbers


def sam_detr(facts: dict) -> Detr:
    return SamDetr(SamModel(dropout=0.0, gaussian=facts["architecture"]["smca"]))


def sam_arrays(seen: Pass) -> dict[str, Tensor]:
    trace = seen.trace
    arrays = {
        "reference_boxes": trace["decoder"].reference[:, :, :10],
        "sampled_points": recorded(trace, "cross_attention", "offsets")[:, :, :10],
    }
    if seen.model.recipe.gaussian:
        terms = recorded(trace, "cross_attention", "gaussian")[:, :, 0, 0]  # (L, B, HW)
        arrays |= {"gaussian_first": terms[0], "gaussian_last": terms[-1]}
        arrays["scale_raw"] = recorded(trace, "cross_attention", "widths")[:, :, :10]
    return arrays


BUILDERS: dict[str, Callable[[dict], Detr]] = {
    "detr": detr,
    "conditional_detr": conditional_detr,
    "deformable_detr": deformable_detr,
    "smca": smca,
    "anchor_detr": anchor_detr,
    "dab_detr": dab_detr,
    "sam_detr": sam_detr,
}

OBSERVERS: dict[str, Callable[[Pass], dict[str, Tensor]]] = {
    "conditional_detr": conditional_arrays,
    "deformable_detr": deformable_arrays,
    "smca": smca_arrays,
    "anchor_detr": anchor_arrays,
    "dab_detr": dab_arrays,
    "sam_detr": sam_arrays,
}

NUMBERS: dict[str, Callable[[Pass], dict[str, float]]] = {
    "dab_detr": side_losses,
}
