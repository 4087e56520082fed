"""How the authors' checkpoints name each tensor, and how we do.

Each line is (official name, our name). `*` stands for one part of a name (a layer's number, "weight"), `**` for all
the rest, in the same order on both sides. Braces list several of our tensors that the official one stacks along its
first axis: `in_proj_weight` is query, key and value in one. `#` stands for a layer's number that our name has not: the
official file repeats there what all layers share. The first line that fits a name, and whose tensors the model has, is
used.
"""

import re
from collections.abc import Collection
from functools import cache
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
SAMPLED: KeyMap = [  # Deformable DETR's attention: names of its linear layers, official and ours
    (f"transformer.{part}.layers.*.{official_attention}.{official}.*", f"{part}.layers.*.{attention}.{ours}.*")
    for part, official_attention, attention in (
        ("encoder", "self_attn", "self_attention"), ("decoder", "cross_attn", "cross_attention"),
    )
    for official, ours in (
        ("sampling_offsets", "offsets"), ("attention_weights", "scores"), ("value_proj", "value"),
        ("output_proj", "output"),
    )
]
DEFORMABLE: KeyMap = SAMPLED + [
    ("transformer.level_embed", "level_embed"),
    ("transformer.decoder.layers.*.norm1.*", "decoder.layers.*.norm2.*"),  # after cross-attention
    ("transformer.decoder.layers.*.norm2.*", "decoder.layers.*.norm1.*"),  # after self-attention
    ("transformer.reference_points.*", "decoder.reference_head.*"),
    ("transformer.enc_output.*", "decoder.first_stage.proposal.*"),
    ("transformer.enc_output_norm.*", "decoder.first_stage.proposal_norm.*"),
    ("transformer.pos_trans.*", "decoder.first_stage.place.*"),
    ("transformer.pos_trans_norm.*", "decoder.first_stage.place_norm.*"),
    ("class_embed.**", "decoder.class_head.**"),
    ("class_embed.#.**", "decoder.class_head.0.**"),
    ("bbox_embed.**", "decoder.box_head.**"),
    ("bbox_embed.#.**", "decoder.box_head.0.**"),
    ("transformer.decoder.class_embed.**", "decoder.class_head.**"),  # the same tensors as class_embed
    ("transformer.decoder.bbox_embed.**", "decoder.box_head.**"),
    ("input_proj.**", "input_proj.**"),
]
DECOUPLED = "{query_row,query_column,key_row,key_column,value}"
ANCHOR: KeyMap = [("backbone.body.**", "backbone.body.**")] + [
    line
    for kind in (STACKED, DECOUPLED)
    for line in (
        ("transformer.encoder_layers.*.self_attn.in_proj_*", f"encoder.layers.*.self_attention.{kind}.*"),
        ("transformer.decoder_layers.*.cross_attn.in_proj_*", f"decoder.layers.*.cross_attention.{kind}.*"),
    )
] + [
    ("transformer.encoder_layers.*.self_attn.out_proj.*", "encoder.layers.*.self_attention.output.*"),
    ("transformer.encoder_layers.*.norm1.*", "encoder.layers.*.norm1.*"),
    ("transformer.encoder_layers.*.ffn.norm2.*", "encoder.layers.*.feed_forward.norm.*"),
    ("transformer.encoder_layers.*.ffn.**", "encoder.layers.*.feed_forward.**"),
    ("transformer.decoder_layers.*.self_attn.in_proj_*", f"decoder.layers.*.self_attention.{STACKED}.*"),
    ("transformer.decoder_layers.*.self_attn.out_proj.*", "decoder.layers.*.self_attention.output.*"),
    ("transformer.decoder_layers.*.cross_attn.out_proj.*", "decoder.layers.*.cross_attention.output.*"),
    ("transformer.decoder_layers.*.norm1.*", "decoder.layers.*.norm2.*"),  # after cross-attention
    ("transformer.decoder_layers.*.norm2.*", "decoder.layers.*.norm1.*"),  # after self-attention
    ("transformer.decoder_layers.*.ffn.norm2.*", "decoder.layers.*.feed_forward.norm.*"),
    ("transformer.decoder_layers.*.ffn.**", "decoder.layers.*.feed_forward.**"),
    ("transformer.pattern.weight", "decoder.patterns.weight"),
    ("transformer.position.weight", "decoder.points.weight"),
    ("transformer.adapt_pos2d.0.*", "grid_position.points.layers.0.*"),
    ("transformer.adapt_pos2d.2.*", "grid_position.points.layers.1.*"),
    ("transformer.adapt_pos1d.0.*", "grid_position.lines.layers.0.*"),
    ("transformer.adapt_pos1d.2.*", "grid_position.lines.layers.1.*"),
    ("transformer.class_embed.#.**", "decoder.class_head.**"),
    ("transformer.bbox_embed.#.**", "decoder.box_head.**"),
    ("input_proj.**", "input_proj.**"),
]
SMCA: KeyMap = [
    ("transformer.decoder.layers.0.point1.**", "decoder.centre_head.**"),
    ("transformer.decoder.layers.*.point2.*", "decoder.layers.*.cross_attention.prior.offset.*"),
    ("transformer.decoder.layers.*.point3.*", "decoder.layers.*.cross_attention.prior.scale.*"),
    ("transformer.decoder.layers.*.norm4.*", "decoder.layers.*.cross_attention.norm.*"),
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
    "deformable": BACKBONE + DEFORMABLE + ENCODER + DECODER + HEADS,
    "smca": BACKBONE + ENCODER + SMCA + DECODER + HEADS + INPUT,
    "anchor": ANCHOR,
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


def translate(name: str, key_map: KeyMap, known: Collection[str] = ()) -> list[str] | None:
    """Our names for one official name: one, or several where it stacks several; None when no line fits.

    known: the names that the model has. Of several lines that fit, the first with known names only is used, and when
    there is none, the first.
    """
    fits = [names for line in key_map if (names := apply_line(name, *line))]
    return next((names for names in fits if all(one in known for one in names)), fits[0] if fits else None)


def apply_line(name: str, official: str, ours: str) -> list[str]:
    """Our names by one line of a map; empty when the line does not fit the name."""
    match = pattern_of(official).fullmatch(name)
    for part in match.groups() if match else ():
        ours = re.sub(r"\*\*?", part, ours, count=1)
    return expand(ours) if match else []


@cache
def pattern_of(official: str) -> re.Pattern:
    """The official side of a line as a regular expression."""
    return re.compile(re.escape(official).replace(r"\*\*", "(.+)").replace(r"\*", r"([^.]+?)").replace(r"\#", r"\d+"))


def expand(name: str) -> list[str]:
    """"a.{q,k}.b" -> ["a.q.b", "a.k.b"]."""
    pieces = re.split(r"\{(.+?)\}", name)
    choices = [piece.split(",") if odd % 2 else [piece] for odd, piece in enumerate(pieces)]
    return ["".join(choice) for choice in product(*choices)]
