"""What learners write for the exercises of notebook 03: wrong answers with what each is told, and right ones."""

import math

import torch
from torch import Tensor

from detr_mini.positions import SineGrid, grid_coordinates, sine


def hands(width: int, temperature: float) -> Tensor:
    """What the angles are divided by, (width/2,)."""
    return torch.tensor([temperature ** (2 * i / width) for i in range(width // 2)])


def woven(angle: Tensor) -> Tensor:
    """Sine and cosine of each hand side by side."""
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


def column_by_column(at: Tensor, width: int, temperature: float) -> Tensor:
    """Right, one number of the code after the other."""
    code = torch.zeros(len(at), width)
    for i in range(width // 2):
        angle = 2 * math.pi * at / temperature ** (2 * i / width)
        code[:, 2 * i], code[:, 2 * i + 1] = torch.sin(angle), torch.cos(angle)
    return code


def by_slices(at: Tensor, width: int, temperature: float) -> Tensor:
    """Right, with every second number from a slice, as DETR's own code writes it."""
    index = torch.arange(width)
    angle = at[:, None] * 2 * math.pi / temperature ** (2 * torch.div(index, 2, rounding_mode="floor") / width)
    return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)


def counts(padding: Tensor) -> tuple[Tensor, Tensor]:
    """y and x as counts."""
    return (~padding).float().cumsum(1), (~padding).float().cumsum(2)


def centres(padding: Tensor) -> Tensor:
    """Right, with the sizes counted apart and no 1e-6; padding beyond the picture gives nan or inf nowhere."""
    valid = (~padding).float()
    y, x = counts(padding)
    return torch.stack([(y - 0.5) / valid.sum(1, keepdim=True).clamp(min=1),
                        (x - 0.5) / valid.sum(2, keepdim=True).clamp(min=1)], dim=-1)


def one_picture_at_a_time(padding: Tensor) -> Tensor:
    """Right: each picture is a rectangle in the upper left corner."""
    answer = torch.zeros(*padding.shape, 2)
    for number, mask in enumerate(padding):
        height, width = int((~mask[:, 0]).sum()), int((~mask[0]).sum())
        answer[number, :height, :width, 0] = ((torch.arange(height) + 0.5) / height)[:, None]
        answer[number, :height, :width, 1] = (torch.arange(width) + 0.5) / width
    return answer


def divided(padding: Tensor, shift: float = 0.5, below: float = 0.0) -> Tensor:
    """Counts less a shift, over the last count less something."""
    y, x = counts(padding)
    return torch.stack([(y - shift) / (y[:, -1:] - below).clamp(min=0.5),
                        (x - shift) / (x[:, :, -1:] - below).clamp(min=0.5)], dim=-1)


def whole_map(padding: Tensor) -> Tensor:
    """Divided by the map instead of the picture."""
    y, x = counts(padding)
    return torch.stack([(y - 0.5) / padding.shape[1], (x - 0.5) / padding.shape[2]], -1)


def part(offset: float, width: int, temperature: float) -> float:
    """One direction's cosines."""
    half = width // 2
    return sum(math.cos(2 * math.pi * offset / temperature ** (2 * i / half)) for i in range(half // 2))


def by_codes(dy: float, dx: float, width: int, temperature: float) -> Tensor:
    """Right numbers, by way of two codes, at 0 and at the offset."""
    here, there = torch.zeros(2, dtype=torch.float64), torch.tensor([dy, dx], dtype=torch.float64)
    return sine(here, width // 2, temperature) @ sine(there, width // 2, temperature)


def by_own_codes(dy: float, dx: float, width: int, temperature: float) -> Tensor:
    """The same with codes written in the exercise before."""
    here, there = (torch.cat([column_by_column(torch.tensor([one], dtype=torch.float64), width // 2, temperature)[0]
                              for one in at]) for at in ((0.0, 0.0), (dy, dx)))
    return here @ there


def by_turning(dy: float, dx: float, width: int, temperature: float) -> float:
    """Right: the real part of each hand's turn, as a complex number."""
    turns = [4 / temperature ** (2 * i / (width // 2)) for i in range(width // 4)]  # in quarters of the circle
    return sum((1j ** (turn * offset)).real for offset in (dy, dx) for turn in turns)


WRONG = {
    "03.clock": [
        (math.cos(math.radians(1.2)), "in radians"),
        (math.cos(2), "the sum of the two angles"),
        (math.cos(3), "cosine of the distance"),
        (math.sin(1.2), "so it is the cosine"),
        (math.sin(0.4) * math.sin(1.6), "product of the cosines is missing"),
        (1.2, "One step is missing"),
        (0.5, "Not yet"),
    ],
    "03.sine": [
        (lambda at, w, t: woven(at[:, None] / hands(w, t)), "2π is missing"),
        (lambda at, w, t: torch.cat([(2 * math.pi * at[:, None] / hands(w, t)).sin(),
                                     (2 * math.pi * at[:, None] / hands(w, t)).cos()], -1), "All sines come first"),
        (lambda at, w, t: woven(2 * math.pi * at[:, None] / hands(w, t)).unflatten(-1, (-1, 2)).flip(-1).flatten(-2),
         "swapped"),
        (lambda at, w, t: woven(2 * math.pi * at[:, None] * hands(w, t)), "turns faster"),
        (lambda at, w, t: woven(2 * math.pi * at[:, None] / hands(w, t).sqrt()), "The exponent is i / width"),
        (lambda at, w, t: woven(2 * math.pi * at[:, None] / t ** (2.0 * torch.arange(w // 2))), "too slow"),
        (lambda at, w, t: woven(2 * math.pi * at[:, None] / t ** (2 * torch.arange(1, w // 2 + 1) / w)), "starts at 1"),
        (lambda at, w, t: (2 * math.pi * at[:, None] / hands(w, t)).sin(), "The shape is (4, 4)"),
        (lambda at, w, t: sine(at[:, None], w, t), "calls `sine`"),
        (lambda at, w, t: SineGrid(2 * w, t)(torch.zeros(1, 1, len(at)).bool())[0, 0, :, w:], "calls `sine`"),
    ],
    "03.coordinates": [
        (lambda p: centres(p).flip(-1), "order is y, x"),
        (lambda p: divided(p, shift=0.0), "far edges"),
        (lambda p: centres(torch.zeros_like(p)), "over the padding"),
        (lambda p: divided(p, shift=0.0) - 0.5, "after dividing"),
        (lambda p: divided(p, shift=1.0), "near edges"),
        (lambda p: divided(p, below=0.5), "less a half"),
        (lambda p: torch.stack(counts(p), -1) - 0.5, "These are counts"),
        (lambda p: centres(p)[..., 0], "The shape is"),
        (lambda p: centres(~p), "Not yet"),
        (lambda p: grid_coordinates(p, half_cell=True), "calls `grid_coordinates`"),
    ],
    "03.distance": [
        (lambda dy, dx, w, t: part(dy / 2 / math.pi, w, t) + part(dx / 2 / math.pi, w, t), "2π is missing"),
        (lambda dy, dx, w, t: part(dy, 2 * w, t) + part(dx, 2 * w, t), "all `width` numbers"),
        (lambda dy, dx, w, t: 2 * (part(dy, w, t) + part(dx, w, t)), "each cosine twice"),
        (lambda dy, dx, w, t: (part(dy, w, t) + part(dx, w, t)) / (w // 2), "took the mean"),
        (lambda dy, dx, w, t: part(dy, w, t) * part(dx, w, t), "adds them"),
        (lambda dy, dx, w, t: 2 * part(math.hypot(dy, dx), w, t), "straight distance"),
        (lambda dy, dx, w, t: part(dy, w, t), "part for x is missing"),
        (lambda dy, dx, w, t: part(dx, w, t), "part for y is missing"),
        (lambda dy, dx, w, t: part(dy, 16, t) + part(dx, 16, t), "take the number of hands from"),
        (lambda dy, dx, w, t: part(dy, w, 100) + part(dx, w, 100), "take it from the argument"),
        (by_codes, "calls `sine`"),
        (by_own_codes, "makes the codes first"),
    ],
}

RIGHT = {
    "03.clock": [0.36, math.sin(0.4) * math.sin(1.6) + math.cos(0.4) * math.cos(1.6)],
    "03.sine": [column_by_column, by_slices],
    "03.coordinates": [centres, one_picture_at_a_time],
    "03.distance": [by_turning, lambda dy, dx, w, t: torch.tensor(part(dy, w, t) + part(dx, w, t))],
}
