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

from detr_mini.sampling import corners


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

    # -- three kinds of record: dense (`weights`), sampled (`locations` and `weights`), factored (row and column) ------

    def maps(self, name: str, level: int = 0) -> Tensor:
        """Where attention went, as maps over one feature map: (B, heads, Q, H, W), whatever kind the record is.

        name: module name, for example "decoder.layers.5.cross_attention". level: index into the detector's feature
        maps, 0 for detectors with one. Dense: the weights of this level's tokens. Sampled: each sample's weight, shared
        out among the four cells around it. Factored: the outer product of column and row weights. A map's mass is the
        weights' mass of its level, except for samples that fall outside the image, which collect nothing.
        """
        record, (height, width) = self[name], self[""].shapes[level]  # the detector itself records shapes
        if hasattr(record, "locations"):
            flat = splat(record.locations[..., level, :, :], record.weights[..., level, :], (height, width))
            hidden = self.level_part(self[""].padding_mask, level)[:, None, None]  # (B, 1, 1, HW)
            return flat.masked_fill(hidden, 0).unflatten(-1, (height, width))
        if hasattr(record, "row_weights"):
            return record.column_weights.unsqueeze(-1) * record.row_weights.unsqueeze(-2)
        return self.as_map(record.weights, level)

    def as_map(self, values: Tensor, level: int = 0) -> Tensor:
        """Recorded values per token, (..., HW of all levels), as maps of one level, (..., H, W): a Gaussian, say."""
        return self.level_part(values, level).unflatten(-1, self[""].shapes[level])

    def level_part(self, values: Tensor, level: int) -> Tensor:
        """The part of (..., HW of all levels) that belongs to one level."""
        return values.split([height * width for height, width in self[""].shapes], dim=-1)[level]

    def entropy(self, name: str) -> Tensor:
        """Entropy in nats of what each query attends to, (B, heads, Q): 0 = one place, log(n) = n places alike.

        Places are keys (dense), samples (sampled) or cells (factored, where rows' and columns' entropies add up).
        """
        record = self[name]
        if hasattr(record, "row_weights"):
            return sum(torch.special.entr(w).sum(dim=-1) for w in (record.row_weights, record.column_weights))
        if hasattr(record, "locations"):
            return torch.special.entr(record.weights).sum(dim=(-2, -1)).transpose(1, 2)
        return torch.special.entr(record.weights).sum(dim=-1)


def splat(locations: Tensor, weights: Tensor, shape: tuple[int, int]) -> Tensor:
    """Samples as a map: each weight is added to the four cells that its sample reads, by their bilinear shares.

    locations: (B, Q, heads, points, 2) as (x, y), 0 to 1 across the map. weights: (B, Q, heads, points).
    Returns (B, heads, Q, H*W); the sum over cells is the sum of the weights, less what falls beyond the border.
    """
    index, share = corners(locations.unsqueeze(-3), weights.unsqueeze(-2), [shape])  # (B, Q, heads, points, 4)
    flat = weights.new_zeros(*weights.shape[:3], shape[0] * shape[1])  # (B, Q, heads, H*W)
    return flat.scatter_add_(-1, index.flatten(3).long(), share.flatten(3)).transpose(1, 2)
