"""AttentionTrace: what a forward pass attended to, recorded from that same pass.

    with AttentionTrace(model) as trace:
        output = model(images)
    trace["decoder.layers.5.cross_attention"].weights   # (B, heads, Q, HW)

Nothing is computed twice. A module that can be traced is a `Traced`; while a trace is open it hands over
what it computed, by calling `record`. While none is open, `record` costs one comparison.
"""

from types import SimpleNamespace, TracebackType

import torch
from torch import Tensor, nn


class Traced(nn.Module):
    """A module that can be watched. `self.trace` is None, or the AttentionTrace that is open."""

    trace: "AttentionTrace | None" = None

    def record(self, **tensors: Tensor) -> None:
        """Hand named tensors to the open trace, detached from the graph; without a trace do nothing."""
        if self.trace is not None:
            self.trace.add(self, tensors)


class AttentionTrace:
    """Records every attention of a model while open.

    `trace[name]` is a record whose attributes are tensors; names are those of `model.named_modules()`.
    A second forward pass under the same trace replaces what the first one recorded.

    Raises RuntimeError when the model is being traced already, KeyError (with the known names) for a
    module that recorded nothing.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = {m: name for name, m in model.named_modules() if isinstance(m, Traced)}
        self.records: dict[str, SimpleNamespace] = {}

    def __enter__(self) -> "AttentionTrace":
        busy = [name or "the model" for module, name in self.modules.items() if module.trace is not None]
        if busy:
            raise RuntimeError(f"{busy[0]} is being traced already: close the outer AttentionTrace first")
        for module in self.modules:
            module.trace = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for module in self.modules:
            module.trace = None

    def add(self, module: nn.Module, tensors: dict[str, Tensor]) -> None:
        """Keep tensors under the module's name; called by `Traced.record`."""
        record = self.records.setdefault(self.modules[module], SimpleNamespace())
        for key, value in tensors.items():
            setattr(record, key, value.detach() if isinstance(value, Tensor) else value)

    def __getitem__(self, name: str) -> SimpleNamespace:
        if name not in self.records:
            known = ", ".join(self.records) or "none (run the model while the trace is open)"
            raise KeyError(f"nothing was recorded for {name!r}; recorded: {known}")
        return self.records[name]

    def __contains__(self, name: str) -> bool:
        return name in self.records

    def maps(self, name: str, level: int = 0) -> Tensor:
        """Dense attention weights as maps: (B, heads, Q, H, W), for a record that has `weights`.

        name: module name, for example "decoder.layers.5.cross_attention". level: index into the
        feature maps that the tokens came from, 0 for detectors with one map.
        """
        shapes = self[""].shapes  # the detector itself records the shapes of its maps
        sizes = [height * width for height, width in shapes]
        weights = self[name].weights.split(sizes, dim=-1)[level]  # (B, heads, Q, H*W)
        return weights.unflatten(-1, shapes[level])

    def entropy(self, name: str) -> Tensor:
        """Entropy in nats of every attention row, (B, heads, Q): 0 = one key, log(keys) = spread evenly."""
        weights = self[name].weights
        return torch.special.entr(weights).sum(dim=-1)
