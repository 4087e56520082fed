"""The first of two stages: the encoder's tokens propose boxes, and the best of them become the queries.

Deformable DETR's two-stage form (Zhu et al. 2021, appendix A.4). A learned query starts with the same
box for every image; a proposal starts where this image has something.
"""

import torch
from torch import Tensor, nn

from detr_mini.attention import xavier
from detr_mini.decoder import DetectorOutput, Queries
from detr_mini.positions import Grid, sine
from detr_mini.trace import Traced
from detr_mini.variants.deformable_attention import token_centres


class FirstStage(Traced):
    """Every token proposes a box; the best `queries` of them become references, content and positions.

    Forward: memory (B, HW, d), grid, and the heads of this stage, d -> C and d -> 4. Returns Queries whose `proposals`
    are those of all tokens; the reference carries no gradient. Records `chosen` (B, Q), tokens best first, and
    `usable` (B, HW). Raises ValueError when there are fewer tokens than queries.
    """

    def __init__(self, d_model: int, queries: int) -> None:
        super().__init__()
        self.queries, self.width = queries, d_model
        self.proposal, self.proposal_norm = xavier(nn.Linear(d_model, d_model)), nn.LayerNorm(d_model)
        self.place, self.place_norm = xavier(nn.Linear(2 * d_model, 2 * d_model)), nn.LayerNorm(2 * d_model)

    def forward(self, memory: Tensor, grid: Grid, class_head: nn.Module, box_head: nn.Module) -> Queries:
        if memory.shape[1] < self.queries:
            raise ValueError(
                f"two-stage cannot choose {self.queries} queries from {memory.shape[1]} tokens: "
                "use larger images, more levels or fewer queries"
            )
        start, usable = cell_boxes(grid)  # (B, HW, 4), (B, HW)
        seen = self.proposal_norm(self.proposal(memory.masked_fill(~usable[..., None], 0)))  # (B, HW, d)
        logits, boxes = class_head(seen), box_head(seen) + start  # (B, HW, C), (B, HW, 4)
        chosen = logits[..., 0].topk(self.queries, dim=1).indices  # (B, Q): class 0 stands for "something"
        self.record(chosen=chosen, usable=usable)
        reference = boxes.gather(1, chosen[..., None].expand(-1, -1, 4)).detach().sigmoid()  # (B, Q, 4)
        place = self.place_norm(self.place(sine(reference, self.width // 2)))  # (B, Q, 2d)
        position, content = place.chunk(2, dim=-1)
        proposals = DetectorOutput(logits[None], boxes.sigmoid()[None])
        return Queries(content, position, reference=reference, proposals=proposals)


def cell_boxes(grid: Grid) -> tuple[Tensor, Tensor]:
    """A box for every token to start its proposal from: centred on it, 0.05 wide on level 0, twice that on each next.

    Returns logits of cxcywh (B, HW, 4), infinite where a token cannot propose, and whether it can (B, HW): it is not
    padding, and centre and sides lie between 0.01 and 0.99.
    """
    centre = token_centres(grid)  # (B, HW, 2)
    side = torch.cat([centre.new_full((h * w,), 0.05 * 2**level) for level, (h, w) in enumerate(grid.shapes)])  # (HW,)
    boxes = torch.cat([centre, side[:, None].expand(len(centre), -1, 2)], dim=-1)  # (B, HW, 4)
    usable = ((boxes > 0.01) & (boxes < 0.99)).all(dim=-1) & ~grid.padding_mask
    return torch.logit(boxes).masked_fill(~usable[..., None], float("inf")), usable
