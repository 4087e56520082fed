"""Weights of the `transformers` library: a folder with model.safetensors and config.json, as its hub keeps them.

    found = open_weights("detr-resnet-50")          # the folder, or the file in it; nothing of the library is needed

DETR, Conditional DETR, Deformable DETR and DAB-DETR with ResNet-50 are read. What the detector is follows from
config.json, how pictures are prepared from preprocessor_config.json where that is there. Safetensors hold no program,
so this is the safest form of the authors' weights that there is.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from detr_mini import zoo
from detr_mini.description import CheckpointError, in_words, shape_faults
from detr_mini.detr import Detr
from detr_mini.key_maps import KeyMap, translate
from detr_mini.recipes import DabModel, DataRecipe, DeformableModel, ModelRecipe

MODELS = {"detr": "detr", "conditional_detr": "conditional", "deformable_detr": "deformable", "dab-detr": "dab"}
WEIGHTS, CONFIG, PREPARED = "model.safetensors", "config.json", "preprocessor_config.json"

ENCODER: KeyMap = [
    (f"model.encoder.layers.*.self_attn.{theirs}.*", f"encoder.layers.*.self_attention.{ours}.*")
    for theirs, ours in (
        ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "output"),
        ("sampling_offsets", "offsets"), ("attention_weights", "scores"), ("value_proj", "value"),
        ("output_proj", "output"),
    )
] + [
    ("model.encoder.layers.*.self_attn_layer_norm.*", "encoder.layers.*.norm1.*"),
    ("model.encoder.layers.*.final_layer_norm.*", "encoder.layers.*.feed_forward.norm.*"),
    ("model.encoder.layers.*.fc*.*", "encoder.layers.*.feed_forward.linear*.*"),
    ("model.encoder.layers.*.activation_fn.*", "encoder.layers.*.feed_forward.activation.*"),
    ("model.encoder.query_scale.**", "encoder.position_scale.**"),
]
DECODER: KeyMap = [
    (f"model.decoder.layers.*.{attention}.{theirs}.*", f"decoder.layers.*.{ours_attention}.{ours}.*")
    for attention, ours_attention in (("self_attn", "self_attention"), ("encoder_attn", "cross_attention"))
    for theirs, ours in (
        ("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "output"),
        ("sampling_offsets", "offsets"), ("attention_weights", "scores"), ("value_proj", "value"),
        ("output_proj", "output"),
    )
] + [
    (f"model.decoder.layers.*.{short}_{theirs}_proj.*", f"decoder.layers.*.{attention}.{ours}.*")  # Conditional DETR
    for short, attention in (("sa", "self_attention"), ("ca", "cross_attention"))
    for theirs, ours in (
        ("qcontent", "query"), ("kcontent", "key"), ("v", "value"), ("qpos_sine", "place"), ("qpos", "query_position"),
        ("kpos", "key_position"),
    )
] + [
    (f"model.decoder.layers.*.{short}.{short}_{theirs}.*", f"decoder.layers.*.{attention}.{ours}.*")  # DAB-DETR
    for short, attention in (("self_attn", "self_attention"), ("cross_attn", "cross_attention"))
    for theirs, ours in (
        ("query_content_proj", "query"), ("key_content_proj", "key"), ("value_proj", "value"),
        ("query_pos_sine_proj", "place"), ("query_pos_proj", "query_position"), ("key_pos_proj", "key_position"),
    )
] + [
    ("model.decoder.layers.*.self_attn.self_attn.output_proj.*", "decoder.layers.*.self_attention.output.*"),
    ("model.decoder.layers.*.cross_attn.cross_attn.output_proj.*", "decoder.layers.*.cross_attention.output.*"),
    ("model.decoder.layers.*.self_attn.self_attn_layer_norm.*", "decoder.layers.*.norm1.*"),
    ("model.decoder.layers.*.cross_attn.cross_attn_layer_norm.*", "decoder.layers.*.norm2.*"),
    ("model.decoder.layers.*.mlp.final_layer_norm.*", "decoder.layers.*.feed_forward.norm.*"),
    ("model.decoder.layers.*.mlp.activation_fn.*", "decoder.layers.*.feed_forward.activation.*"),
    ("model.decoder.layers.*.mlp.fc*.*", "decoder.layers.*.feed_forward.linear*.*"),
    ("model.decoder.layers.*.self_attn_layer_norm.*", "decoder.layers.*.norm1.*"),
    ("model.decoder.layers.*.encoder_attn_layer_norm.*", "decoder.layers.*.norm2.*"),
    ("model.decoder.layers.*.final_layer_norm.*", "decoder.layers.*.feed_forward.norm.*"),
    ("model.decoder.layers.*.fc*.*", "decoder.layers.*.feed_forward.linear*.*"),
    ("model.decoder.layernorm.*", "decoder.norm.*"),
    ("model.decoder.query_scale.**", "decoder.place_scale.**"),
]
REST: KeyMap = [
    ("model.input_projection.*", "input_proj.0.*"),
    ("model.input_proj.**", "input_proj.**"),
    ("model.level_embed", "level_embed"),
    ("model.query_position_embeddings.*", "decoder.query_embed.*"),
    ("model.query_refpoint_embeddings.*", "decoder.query_embed.*"),
    ("model.patterns.*", "decoder.patterns.*"),
    ("model.reference_points.*", "decoder.reference_head.*"),
    ("model.enc_output.*", "decoder.first_stage.proposal.*"),
    ("model.enc_output_norm.*", "decoder.first_stage.proposal_norm.*"),
    ("model.pos_trans.*", "decoder.first_stage.place.*"),
    ("model.pos_trans_norm.*", "decoder.first_stage.place_norm.*"),
    ("class_labels_classifier.*", "decoder.class_head.*"),
    ("bbox_predictor.**", "decoder.box_head.**"),
    ("class_embed.**", "decoder.class_head.**"),
    ("class_embed.#.**", "decoder.class_head.0.**"),  # Deformable DETR without refinement: all layers share a head
    ("bbox_embed.**", "decoder.box_head.**"),
    ("bbox_embed.#.**", "decoder.box_head.0.**"),
    ("model.decoder.class_embed.**", "decoder.class_head.**"),  # the same tensors again
    ("model.decoder.bbox_embed.**", "decoder.box_head.**"),
]
POINTS: dict[str, KeyMap] = {
    "conditional": [("model.decoder.ref_point_head.**", "decoder.point_head.**")],
    "dab": [("model.decoder.ref_point_head.**", "decoder.position_head.**"),
            ("model.decoder.ref_anchor_head.**", "decoder.size_head.**")],
}
BODY = r"model\.backbone\.(?:conv_encoder\.)?model\."


# ---------------------------------------------------------------- reading


def is_hub(path: Path) -> bool:
    """Whether a folder, or the folder of a file, has the configuration of such a model."""
    return (path if path.is_dir() else path.parent).joinpath(CONFIG).is_file()


def read_hub(path: Path) -> tuple[Detr, DataRecipe, list[str | None], str]:
    """The detector, how its pictures are prepared, the names of its labels, and in words what was read.

    path: the folder, or the safetensors file in it. Raises CheckpointError naming the file and the field at fault.
    """
    folder, file = (path, path / WEIGHTS) if path.is_dir() else (path.parent, path)
    config = described(folder / CONFIG)
    system, recipe = MODELS[config["model_type"]], recipe_of(config, folder / CONFIG)
    if not file.is_file():
        parts = sorted(one.name for one in folder.glob("model-*.safetensors"))
        what = f"it is in {len(parts)} parts, which are not read: save it as one" if parts else "no weights are there"
        raise CheckpointError(f"{file} is missing: {what}")
    names = labels_of(config, recipe.classes, folder / CONFIG)
    model = filled(system, recipe, file)
    return model.eval(), data_of(folder / PREPARED), names, f"{plain_name(path)}: {system}, of the transformers library"


def plain_name(path: Path) -> str:
    """How a place is called in words."""
    return path.name if path.is_dir() else f"{path.parent.name}/{path.name}"


def described(path: Path) -> dict[str, object]:
    """A configuration that is of a detector here; CheckpointError otherwise."""
    config = read_json(path)
    kind = config.get("model_type")
    if kind not in MODELS:
        raise CheckpointError(f"{path}: model_type is {kind!r:.60}, which is not here: there are {', '.join(MODELS)}")
    return config


def read_json(path: Path) -> dict[str, object]:
    """A JSON object from a file; CheckpointError naming it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} is no JSON object")
    return content


def whole(config: Mapping[str, object], field: str, default: int, path: Path) -> int:
    """A whole number of a configuration, from 0 to 100,000."""
    value = config.get(field, default)
    if type(value) is not int or not 0 <= value <= 100_000:
        raise CheckpointError(f"{path}: {field} is {value!r:.60}: it must be a whole number")
    return value


def recipe_of(config: Mapping[str, object], path: Path) -> ModelRecipe:
    """The shape of the detector. CheckpointError for options that no detector here has."""
    system = MODELS[config["model_type"]]
    require_resnet50(config, path)
    for field, usual in (("position_embedding_type", "sine"), ("normalize_before", False), ("keep_query_pos", False)):
        if config.get(field, usual) != usual:
            raise CheckpointError(f"{path}: {field} is {config[field]!r:.60}, which is not here: only {usual!r} is")
    labels = config.get("id2label")
    classes = len(labels) if isinstance(labels, dict) and labels else whole(config, "num_labels", 91, path)
    shape = {
        "dilation": bool(config.get("dilation", False)), "classes": classes,
        "d_model": whole(config, "hidden_size" if system == "dab" else "d_model", 256, path),
        "heads": whole(config, "encoder_attention_heads", 8, path),
        "encoder_layers": whole(config, "encoder_layers", 6, path),
        "decoder_layers": whole(config, "decoder_layers", 6, path),
        "feed_forward": whole(config, "encoder_ffn_dim", 1024 if system == "deformable" else 2048, path),
        "queries": whole(config, "num_queries", 100 if system == "detr" else 300, path),
        "head": "softmax" if system == "detr" else "focal",
    }
    try:
        if system == "deformable":
            two_stage = bool(config.get("two_stage", False))
            if two_stage:
                shape["queries"] = whole(config, "two_stage_num_proposals", 300, path)
            return DeformableModel(**shape, levels=whole(config, "num_feature_levels", 4, path),
                                   points=whole(config, "decoder_n_points", 4, path), two_stage=two_stage,
                                   refine=bool(config.get("with_box_refine", False)))
        if system == "dab":
            return DabModel(**shape, patterns=whole(config, "num_patterns", 0, path),
                            key_temperature=float(whole(config, "temperature_height", 20, path)))
        return ModelRecipe(**shape)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def require_resnet50(config: Mapping[str, object], path: Path) -> None:
    """CheckpointError for another backbone than ResNet-50, by the names and numbers of either of its descriptions."""
    inner = config.get("backbone_config")
    depths = inner.get("depths") if isinstance(inner, dict) else None
    named = config.get("backbone") or (inner.get("backbone") if isinstance(inner, dict) else None)
    if depths not in (None, [3, 4, 6, 3]) or named not in (None, "resnet50", "microsoft/resnet-50"):
        raise CheckpointError(f"{path}: its backbone is {named or depths!r:.60}, and only ResNet-50 is here")


# ---------------------------------------------------------------- tensors


def filled(system: str, recipe: ModelRecipe, file: Path) -> Detr:
    """A detector with the file's tensors. CheckpointError naming those that do not fit; nothing is built before."""
    try:
        state = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is not a whole safetensors file ({error})") from None
    with torch.device("meta"):
        wanted = zoo.entry(system).detector(recipe).state_dict()
    ours = renamed(system, state, wanted)
    shapes = ({name: tuple(tensor.shape) for name, tensor in one.items()} for one in (wanted, ours))
    if said := in_words(shape_faults(*shapes)):
        raise CheckpointError(f"{file} does not fit its {CONFIG}: {said:.600}")
    model = zoo.build_bare(system, recipe)
    model.load_state_dict({name: tensor.float() for name, tensor in ours.items()})
    return model


def renamed(system: str, state: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under our names; a name that is not known stays, so that it is told. CheckpointError when copies of a
    tensor differ."""
    key_map = POINTS.get(system, []) + ENCODER + DECODER + REST
    ours = {}
    for name, tensor in state.items():
        if not name.endswith("num_batches_tracked"):
            one = backbone_name(name) or (translate(name, key_map, wanted) or [name])[0]
            if one in ours and not torch.equal(ours[one], tensor):
                raise CheckpointError(f"{name} differs from another tensor of the file, and the model has one for both "
                                      f"({one})")
            ours[one] = tensor
    return ours


def backbone_name(name: str) -> str | None:
    """Our name of a tensor of the backbone, None for others. It counts stages and layers from 0, or speaks as timm
    does, whose names are torchvision's."""
    match = re.match(BODY, name)
    if not match:
        return None
    rest = name[match.end():].removeprefix("resnet.")
    if found := re.fullmatch(r"embedder\.embedder\.(convolution|normalization)\.(.+)", rest):
        return f"backbone.body.{'conv1' if found[1] == 'convolution' else 'bn1'}.{found[2]}"
    shortcut = r"encoder\.stages\.(\d)\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.(.+)"
    if found := re.fullmatch(shortcut, rest):
        kind = 0 if found[3] == "convolution" else 1
        return f"backbone.body.layer{int(found[1]) + 1}.{found[2]}.downsample.{kind}.{found[4]}"
    layer = r"encoder\.stages\.(\d)\.layers\.(\d+)\.layer\.(\d)\.(convolution|normalization)\.(.+)"
    if found := re.fullmatch(layer, rest):
        kind = "conv" if found[4] == "convolution" else "bn"
        return f"backbone.body.layer{int(found[1]) + 1}.{found[2]}.{kind}{int(found[3]) + 1}.{found[5]}"
    return f"backbone.body.{rest}"


# ---------------------------------------------------------------- labels and pictures


def labels_of(config: Mapping[str, object], count: int, path: Path) -> list[str | None]:
    """The name of every label; None for COCO's gaps, which are called N/A there."""
    given = config.get("id2label")
    if given is None:
        return [None] * count
    names: list[str | None] = [None] * count
    for key, name in given.items() if isinstance(given, dict) else ():
        if not str(key).isdecimal() or int(key) >= count or not isinstance(name, str):
            raise CheckpointError(f"{path}: id2label has {key!r:.40}: {name!r:.40}; it must name labels 0 to "
                                  f"{count - 1}")
        names[int(key)] = None if name in ("N/A", "") else name
    return names


def data_of(path: Path) -> DataRecipe:
    """How pictures are prepared: by the file, and as DETR's authors do where it does not say."""
    usual = DataRecipe()
    if not path.is_file():
        return usual
    said = read_json(path)
    size = said.get("size", {})
    shorter, longer = (size.get("shortest_edge"), size.get("longest_edge")) if isinstance(size, dict) else (size, None)
    shorter, longer = shorter or usual.eval_size, longer or said.get("max_size") or usual.max_size
    colours = [said.get("image_mean", list(usual.mean)), said.get("image_std", list(usual.std))]
    numbers = all(isinstance(c, list) and len(c) == 3 and all(isinstance(v, int | float) for v in c) for c in colours)
    if not numbers or not all(type(side) is int and 1 <= side <= 10_000 for side in (shorter, longer)):
        raise CheckpointError(f"{path}: size, image_mean or image_std are not numbers of pixels and of three colours")
    return DataRecipe(eval_size=shorter, max_size=longer, mean=tuple(colours[0]), std=tuple(colours[1]))
