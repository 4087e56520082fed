"""How the authors' checkpoints name each tensor, and how we do.

Each line is (official name, our name). `*` stands for one part of a name (a layer's number, "weight"), `**` for all
the rest, in the same order on both sides. Braces list several of our tensors that the official one stacks along its
first axis: `in_proj_weight` is query, key and value in one. The first line that fits a name is used.
"""

import re
from itertools import product

KeyMap = list[tuple[str, str]]

STACKED = "{query,key,value}"
BACKBONE: KeyMap = [("backbone.0.body.**", "backbone.body.**")]
ENCODER: KeyMap = [
    ("transformer.encoder.layers.*.self_attn.in_proj_*", f"encoder.layers.*.self_attention.{STACKED}.*"),
    ("transformer.encoder.layers.*.self_attn.out_proj.*", "encoder.layers.*.self_attention.output.*"),
    ("transformer.encoder.layers.*.norm1.*", "encoder.layers.*.norm1.*"),
    ("transformer.encoder.layers.*.norm2.*", "encoder.layers.*.feed_forward.norm.*"),
    ("transformer.encoder.layers.*.linear*.*", "encoder.layers.*.feed_forward.linear*.*"),
]
DECODER: KeyMap = [
    ("transformer.decoder.layers.*.self_attn.in_proj_*", f"decoder.layers.*.self_attention.{STACKED}.*"),
    ("transformer.decoder.layers.*.self_attn.out_proj.*", "decoder.layers.*.self_attention.output.*"),
    ("transformer.decoder.layers.*.multihead_attn.in_proj_*", f"decoder.layers.*.cross_attention.{STACKED}.*"),
    ("transformer.decoder.layers.*.multihead_attn.out_proj.*", "decoder.layers.*.cross_attention.output.*"),
    ("transformer.decoder.layers.*.norm3.*", "decoder.layers.*.feed_forward.norm.*"),
    ("transformer.decoder.layers.*.norm*.*", "decoder.layers.*.norm*.*"),
    ("transformer.decoder.layers.*.linear*.*", "decoder.layers.*.feed_forward.linear*.*"),
    ("transformer.decoder.norm.*", "decoder.norm.*"),
]
HEADS: KeyMap = [
    ("query_embed.weight", "decoder.query_embed.weight"),
    ("class_embed.*", "decoder.class_head.*"),
    ("bbox_embed.**", "decoder.box_head.**"),
]
INPUT: KeyMap = [("input_proj.*", "input_proj.0.*")]

# Projections of their own for content and position: Conditional, DAB and SAM.
SEPARATE: KeyMap = [
    ("transformer.decoder.layers.*.sa_qcontent_proj.*", "decoder.layers.*.self_attention.query.*"),
    ("transformer.decoder.layers.*.sa_qpos_proj.*", "decoder.layers.*.self_attention.query_position.*"),
    ("transformer.decoder.layers.*.sa_kcontent_proj.*", "decoder.layers.*.self_attention.key.*"),
    ("transformer.decoder.layers.*.sa_kpos_proj.*", "decoder.layers.*.self_attention.key_position.*"),
    ("transformer.decoder.layers.*.sa_v_proj.*", "decoder.layers.*.self_attention.value.*"),
    ("transformer.decoder.layers.*.ca_qcontent_proj.*", "decoder.layers.*.cross_attention.query.*"),
    ("transformer.decoder.layers.*.ca_kcontent_proj.*", "decoder.layers.*.cross_attention.key.*"),
    ("transformer.decoder.layers.*.ca_v_proj.*", "decoder.layers.*.cross_attention.value.*"),
    ("transformer.decoder.layers.*.cross_attn.out_proj.*", "decoder.layers.*.cross_attention.output.*"),
]
CONDITIONAL: KeyMap = SEPARATE + [
    ("transformer.decoder.layers.*.ca_qpos_proj.*", "decoder.layers.*.cross_attention.query_position.*"),
    ("transformer.decoder.layers.*.ca_kpos_proj.*", "decoder.layers.*.cross_attention.key_position.*"),
    ("transformer.decoder.layers.*.ca_qpos_sine_proj.*", "decoder.layers.*.cross_attention.place.*"),
    ("transformer.decoder.query_scale.**", "decoder.place_scale.**"),
    ("transformer.decoder.ref_point_head.**", "decoder.point_head.**"),
]
DAB: KeyMap = [
    ("refpoint_embed.weight", "decoder.query_embed.weight"),
    ("transformer.patterns.weight", "decoder.patterns.weight"),
    ("transformer.encoder.query_scale.**", "encoder.position_scale.**"),
    ("transformer.encoder.layers.*.activation.weight", "encoder.layers.*.feed_forward.activation.weight"),
    ("transformer.decoder.layers.*.activation.weight", "decoder.layers.*.feed_forward.activation.weight"),
    ("transformer.decoder.ref_point_head.**", "decoder.position_head.**"),
    ("transformer.decoder.ref_anchor_head.**", "decoder.size_head.**"),
    ("transformer.decoder.bbox_embed.**", "decoder.box_head.**"),  # the same tensors as bbox_embed
]
SAM: KeyMap = SEPARATE + [
    ("transformer.decoder.layers.*.ca_qpos_sine_proj.**", "decoder.layers.*.cross_attention.query_position.**"),
    ("transformer.decoder.layers.*.ca_kpos_sine_proj.**", "decoder.layers.*.cross_attention.key_position.**"),
    ("transformer.decoder.layers.*.attn1.*", "decoder.layers.*.cross_attention.content_weight.*"),
    ("transformer.decoder.layers.*.attn2.*", "decoder.layers.*.cross_attention.position_weight.*"),
    ("transformer.decoder.layers.*.point1.0.*", "decoder.layers.*.cross_attention.narrow.*"),
    ("transformer.decoder.layers.*.point2.0.*", "decoder.layers.*.cross_attention.find.layers.0.*"),
    ("transformer.decoder.layers.*.point2.2.*", "decoder.layers.*.cross_attention.find.layers.1.*"),
    ("transformer.decoder.layers.*.point2.4.*", "decoder.layers.*.cross_attention.find.layers.2.*"),
    ("transformer.decoder.layers.*.point2.6.*", "decoder.layers.*.cross_attention.find.layers.3.*"),
    ("transformer.decoder.bbox_embed.**", "decoder.box_head.**"),  # the same tensors as bbox_embed
    ("class_embed.**", "decoder.class_head.**"),
    ("input_proj.**", "input_proj.**"),
]

KEY_MAPS: dict[str, KeyMap] = {
    "detr": BACKBONE + ENCODER + DECODER + HEADS + INPUT,
    "conditional": BACKBONE + ENCODER + CONDITIONAL + DECODER + HEADS + INPUT,
    "dab": BACKBONE + ENCODER + DAB + CONDITIONAL + DECODER + HEADS + INPUT,
    "sam": BACKBONE + ENCODER + SAM + DECODER + HEADS,
}

# What gives a checkpoint away, most telling first: a part of a name that only this system has.
FINGERPRINTS: list[tuple[str, str]] = [
    ("patch2query", "up_detr"),
    ("label_enc", "dn_detr"),
    (".point2.6.", "sam"),
    (".point1.", "smca"),
    ("transformer.encoder_layers.", "anchor"),
    ("refpoint_embed", "dab"),
    ("cross_attn.sampling_offsets", "deformable"),
    ("ref_point_head", "conditional"),
    ("decoder.layers.0.multihead_attn", "detr"),
]


def recognise(names: list[str]) -> str | None:
    """The system whose official checkpoint has these names, or None when it is none that we know."""
    return next((system for part, system in FINGERPRINTS if any(part in name for name in names)), None)


def translate(name: str, key_map: KeyMap) -> list[str] | None:
    """Our names for one official name: one, or several where it stacks several; None when no line fits."""
    for official, ours in key_map:
        pattern = re.escape(official).replace(r"\*\*", "(.+)").replace(r"\*", r"([^.]+?)")
        match = re.fullmatch(pattern, name)
        if match:
            for part in match.groups():
                ours = re.sub(r"\*\*?", part, ours, count=1)
            return expand(ours)
    return None


def expand(name: str) -> list[str]:
    """"a.{q,k}.b" -> ["a.q.b", "a.k.b"]."""
    pieces = re.split(r"\{(.+?)\}", name)
    choices = [piece.split(",") if odd % 2 else [piece] for odd, piece in enumerate(pieces)]
    return ["".join(choice) for choice in product(*choices)]
