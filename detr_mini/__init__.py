"""detr_mini: how modern object detection works, small enough to read in an evening.

    import detr_mini as dm
    dm.setup(seed=0)                      # the first cell of every notebook
    model = dm.build("detr")              # a small DETR for generated scenes
    output = model(images)                # logits and boxes of every decoder layer

The names below are imported when they are first used, so that `import detr_mini` itself is quick.
"""

from importlib import import_module

_WHERE = {
    "attention": ("MultiHeadAttention", "attention_weights"),
    "trace": ("AttentionTrace",),
    "encoder": ("Encoder",),
    "decoder": ("Decoder", "DetectorOutput"),
    "detr": ("Detr",),
    "matching": ("HungarianMatcher",),
    "losses": ("SetCriterion",),
    "zoo": ("build", "show_diff"),
    "checkpoints": ("load_weights", "save_weights", "load_official", "read_official"),
    "training": ("fit",),
    "evaluation": ("evaluate",),
    "course.notebook": ("setup",),
    "course.exercises": ("hint", "solution"),
}
_NAMES = {name: module for module, names in _WHERE.items() for name in names}
__all__ = sorted(_NAMES)
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Import a public name from the module that has it."""
    if name not in _NAMES:
        raise AttributeError(f"detr_mini has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"detr_mini.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
