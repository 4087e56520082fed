"""What a weights file of ours says of itself, held against one schema and against its own tensors.

A file may come from a stranger, so nothing in it is believed: `read_description` compares every field with the kind of
value that it must have, and the whole with the names and shapes of the tensors, before anything is built. Whatever does
not fit is a CheckpointError that names the file and the field.
"""

import json
import math
import re
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from detr_mini import zoo
from detr_mini.recipes import DataRecipe, ModelRecipe

FORMAT = "detr_mini 1"
SCALE = "/scale"  # behind the name of a tensor stored in 8 bits
LARGEST = 100_000  # of any whole number in a recipe
LARGEST_SIDE = 10_000  # pixels
FIXED = ("crop_range", "mean", "std")  # lists that have as many numbers as their default
LAYER = re.compile(r"(encoder|decoder)\.layers\.(\d+)\.")


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message names the file or tensor, and what was expected."""


@dataclass(frozen=True)
class Description:
    """system: the detector. recipe: its shape. data: how images are prepared, None if the file does not say.

    classes: name of every label, None for a label without one; empty if the file does not say. label_to_category:
    category ids of the data it was trained on.
    """

    system: str
    recipe: ModelRecipe
    data: DataRecipe | None
    classes: list[str | None]
    label_to_category: dict[int, int]


# ---------------------------------------------------------------- reading


def read_facts(path: Path | str) -> dict[str, object]:
    """What a weights file says about itself: format, system, recipe, and the facts it was saved with.

    Raises FileNotFoundError, or CheckpointError when it is not a file of ours.
    """
    return read_header(Path(path))[0]


def read_header(path: Path) -> tuple[dict[str, object], dict[str, tuple[int, ...]]]:
    """The facts of a file, and the shape of every tensor by name. Raises as `read_facts`; reads no tensor."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with safe_open(path, "pt") as file:
            written = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file ({error}), as detr_mini saves them") from error
    if written.get("format") != json.dumps(FORMAT):
        found = written.get("format", "unknown")
        raise CheckpointError(f"{path} is a safetensors file of format {found!r}, not {FORMAT!r}: not one of ours. If "
                              "it is of the transformers library, its config.json must lie beside it")
    return {key: parsed(path, key, value) for key, value in written.items()}, shapes


def parsed(path: Path, key: str, text: str) -> object:
    """One field's JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its field {key!r} is not JSON ({error}): not as detr_mini writes it") from None


def read_description(path: Path | str) -> Description:
    """A file's description, checked. Raises FileNotFoundError, or CheckpointError naming file and field."""
    path = Path(path)
    facts, shapes = read_header(path)
    try:
        found = described(facts)
        fits_tensors(found, {name: shape for name, shape in shapes.items() if not name.endswith(SCALE)})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return found


# ---------------------------------------------------------------- the schema


def described(facts: dict[str, object]) -> Description:
    """Facts as what they stand for; CheckpointError naming the field that is missing or wrong."""
    for name in ("system", "recipe"):
        if name not in facts:
            raise CheckpointError(f"it has no field {name!r}: take a file that `train` wrote")
    system = facts["system"]
    if system not in zoo.names():
        raise CheckpointError(f"system is {system!r:.60}: this version knows {', '.join(zoo.names())}")
    recipe = fill(type(zoo.recipe(system, "coco").model), facts["recipe"], "recipe")
    data = fill(DataRecipe, facts["data"], "data") if "data" in facts else None
    if data:
        require_data(data)
    classes = names_of(facts.get("classes", []), recipe.classes)
    return Description(system, recipe, data, classes, categories_of(facts.get("label_to_category", {}), recipe.classes))


def fill(kind: type, given: object, name: str):
    """A recipe of dataclass `kind` from a JSON object; each value must be of the kind of the field's default.

    A field that is missing has its default. Raises CheckpointError naming the field.
    """
    if not isinstance(given, dict):
        raise CheckpointError(f"{name} is {given!r:.60}: it must be an object with the fields of {kind.__name__}")
    known = {field.name: field.default for field in fields(kind)}
    if unknown := sorted(set(given) - set(known)):
        raise CheckpointError(f"{name} does not fit {kind.__name__}, which has no field {unknown[0]!r:.60}: a later "
                              "version of detr_mini may have written this file")
    values = {field: value_of(value, known[field], f"{name}.{field}") for field, value in given.items()}
    try:
        return kind(**values)
    except ValueError as error:
        raise CheckpointError(f"{name}: {error}") from None


def value_of(value: object, like: object, name: str) -> object:
    """A JSON value as the kind of `like`: true or false, a whole number, a number, a word, or a list of numbers."""
    if isinstance(like, tuple):
        if not isinstance(value, list) or len(value) > LARGEST:
            raise CheckpointError(f"{name} is {value!r:.60}: it must be a list of numbers")
        example = like[0] if like else 0
        if name.rpartition(".")[2] in FIXED and len(value) != len(like):
            raise CheckpointError(f"{name} is {value!r:.60}: it must have {len(like)} numbers")
        return tuple(value_of(one, example, f"{name}[{place}]") for place, one in enumerate(value))
    if isinstance(like, float):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise CheckpointError(f"{name} is {value!r:.60}: it must be a number")
        return float(value)
    if type(value) is not type(like):
        wanted = {bool: "true or false", int: "a whole number", str: "a word"}[type(like)]
        raise CheckpointError(f"{name} is {value!r:.60}: it must be {wanted}")
    if isinstance(value, int) and not 0 <= value <= LARGEST:
        raise CheckpointError(f"{name} is {value}: it must be from 0 to {LARGEST:,}")
    return value


def require_data(data: DataRecipe) -> None:
    """CheckpointError for a preparation of images that cannot be meant."""
    sides = {"max_size": (data.max_size,), "eval_size": (data.eval_size,), "train_sizes": data.train_sizes,
             "crop_resize": data.crop_resize, "crop_range": data.crop_range}
    for name, values in sides.items():
        for value in values:
            if not 1 <= value <= LARGEST_SIDE:
                raise CheckpointError(f"data.{name} is {value}: it must be from 1 to {LARGEST_SIDE:,} pixels")
    if not data.train_sizes:
        raise CheckpointError("data.train_sizes is empty: it must have one size at least")
    if not 0 <= data.flip <= 1:
        raise CheckpointError(f"data.flip is {data.flip}: it must be from 0 to 1")
    if min(data.std) <= 0:
        raise CheckpointError(f"data.std is {list(data.std)}: it must be above 0")


def names_of(given: object, count: int) -> list[str | None]:
    """The classes' names: none at all, or one (or null) for every row of the class head."""
    if not isinstance(given, list) or not all(name is None or isinstance(name, str) for name in given):
        raise CheckpointError(f"classes is {given!r:.60}: it must be a list of names, null for a label without one")
    if given and len(given) != count:
        raise CheckpointError(f"classes has {len(given)} names, and the class head has {count} rows: they must agree")
    return list(given)


def categories_of(given: object, count: int) -> dict[int, int]:
    """Label -> category id, from JSON, whose keys are words."""
    if not isinstance(given, dict):
        raise CheckpointError(f"label_to_category is {given!r:.60}: it must be an object of label and category id")
    for label, category in given.items():
        if not label.isdecimal() or len(label) > 6 or int(label) >= count:
            raise CheckpointError(f"label_to_category has the label {label!r:.60}: labels are 0 to {count - 1}")
        if type(category) is not int or abs(category) >= 2**63:
            raise CheckpointError(f"label_to_category[{label}] is {category!r:.60}: it must be a whole number")
    return {int(label): category for label, category in given.items()}


# ---------------------------------------------------------------- against the tensors


def fits_tensors(found: Description, shapes: dict[str, tuple[int, ...]]) -> None:
    """CheckpointError when a model of this description would not have these tensors. No memory is asked for."""
    for part in ("encoder", "decoder"):
        numbers = {int(match[2]) for name in shapes if (match := LAYER.match(name)) and match[1] == part}
        said = getattr(found.recipe, f"{part}_layers")
        if said > max(numbers, default=-1) + 1:
            raise CheckpointError(f"recipe.{part}_layers is {said}, and its tensors are of {len(numbers)} layers")
    largest = max((max(shape, default=1) for shape in shapes.values()), default=1)
    for name in ("d_model", "feed_forward", "queries", "classes", "patterns", "levels", "points", "heads"):
        if (said := getattr(found.recipe, name, 0)) > largest:
            raise CheckpointError(f"recipe.{name} is {said}, and no tensor of the file has a side above {largest}")
    try:
        with torch.device("meta"):
            wanted = zoo.entry(found.system).detector(found.recipe).state_dict()
    except (ValueError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"recipe describes no {found.system} that can be built: {error}") from None
    faults = shape_faults({name: tuple(tensor.shape) for name, tensor in wanted.items()}, shapes)
    if said := in_words(faults):
        raise CheckpointError(f"does not fit the model: {said}")


def shape_faults(wanted: dict[str, tuple], given: dict[str, tuple]) -> dict[str, list[str]]:
    """Every missing, unexpected and wrongly shaped tensor by kind, from shapes by name."""
    return {
        "missing": sorted(set(wanted) - set(given)),
        "unexpected": sorted(set(given) - set(wanted)),
        "wrong shape": [f"{name} {given[name]} instead of {wanted[name]}"
                        for name in wanted if name in given and given[name] != wanted[name]],
    }


def in_words(faults: dict[str, list[str]]) -> str:
    """Faults by kind, in one line; empty when there are none."""
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in faults.items() if names)
