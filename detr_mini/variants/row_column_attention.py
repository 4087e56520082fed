"""Row-column decoupled attention: first along x, then along y, instead of over all cells at once."""

import math

from torch import Tensor, nn

from detr_mini.attention import attention_weights, padding_bias
from detr_mini.positions import Grid
from detr_mini.trace import Traced


class RowColumnAttention(Traced):
    """RCDA (Wang et al. 2022): the weight of cell (x, y) is a row weight A_x times a column weight A_y.

    A query is compared with the W means over columns and with the H means over rows, not with H * W cells, so both
    softmaxes are short. Means take padded cells in; padded columns and rows get weight 0 (as in the authors' code).

    Forward: content (B, Q, d), the addresses of the query's x and of its y (broadcast to (B, Q, d)), memory (B, HW, d)
    of one feature map, grid with position (B, H + W, d): addresses of the rows, then of the columns -> (B, Q, d).
    Records `row_weights` (B, heads, Q, W) and `column_weights` (B, heads, Q, H).
    """

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        if d_model % heads:
            raise ValueError(f"d_model={d_model} cannot be split among {heads} heads: choose a multiple of {heads}")
        self.heads = heads
        self.query_row, self.query_column = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.key_row, self.key_column = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        self.value, self.output = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)
        for part in (self.query_row, self.query_column, self.key_row, self.key_column, self.value):
            nn.init.xavier_uniform_(part.weight, gain=1 / math.sqrt(3))  # what one fused (5d, d) matrix gets
            nn.init.zeros_(part.bias)
        nn.init.zeros_(self.output.bias)

    def forward(self, content: Tensor, x_address: Tensor, y_address: Tensor, memory: Tensor, grid: Grid) -> Tensor:
        height, width = grid.shapes[0]
        rows, columns = grid.position.split([height, width], dim=1)  # (B, H, d), (B, W, d)
        cells, mask = memory.unflatten(1, (height, width)), grid.masks()[0]  # (B, H, W, d), (B, H, W)
        q, k = self.query_row(content + x_address), self.key_row(cells.mean(1) + columns)  # (B, Q, d), (B, W, d)
        row_weights = attention_weights(self.split(q), self.split(k), padding_bias(mask[:, 0]))  # (B, heads, Q, W)
        q, k = self.query_column(content + y_address), self.key_column(cells.mean(2) + rows)  # (B, Q, d), (B, H, d)
        column_weights = attention_weights(self.split(q), self.split(k), padding_bias(mask[:, :, 0]))
        self.record(row_weights=row_weights, column_weights=column_weights)
        value = self.split(self.value(memory)).unflatten(2, (height, width))  # (B, heads, H, W, d/heads)
        return self.output(collect(column_weights, row_weights, value).transpose(1, 2).flatten(-2))

    def split(self, x: Tensor) -> Tensor:
        """(B, N, d) -> (B, heads, N, d/heads)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def collect(first: Tensor, second: Tensor, value: Tensor) -> Tensor:
    """Average over one axis, then over the other: the longer one first, so that little is left for each query.

    first: (B, heads, Q, M), second: (B, heads, Q, N), value: (B, heads, M, N, c). Returns (B, heads, Q, c).
    """
    if value.shape[2] < value.shape[3]:
        return collect(second, first, value.transpose(2, 3))
    part = (first @ value.flatten(3)).unflatten(-1, value.shape[3:])  # (B, heads, Q, N, c)
    return (second.unsqueeze(-2) @ part).squeeze(-2)
