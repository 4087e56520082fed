"""Exercises and quiz of 11, Deformable DETR."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, ask, judge, numbers
from detr_mini.variants.deformable_attention import compass

Place = tuple[float, float]

# ---------------------------------------------------------------- 11.read

INSIDE: tuple[Place, ...] = ((0.37, 0.62), (0.55, 0.30), (0.70, 0.41))  # on a 4 x 6 map: four cells around each
BORDER: tuple[Place, ...] = ((0.02, 0.45), (0.97, 0.96), (0.40, 0.05), (1.40, 0.50))  # cells missing; all of them


def check_read(read_at: object) -> None:
    """read_at(cells (h, w), x, y) -> the value of the map at a place, 0 to 1 across it; 0 outside."""
    cells = map_of_numbers()
    judge(read_all(read_at, cells, INSIDE), bilinear(cells, INSIDE), slips_of_read(cells), tolerance=1e-4)
    judge(read_all(read_at, cells, BORDER), bilinear(cells, BORDER), {
        "Right in the middle of the map. At the border you repeat the last cell; here what lies outside is 0.":
            bilinear(cells, BORDER, padding_mode="border"),
        "Right in the middle of the map. At the border an index of -1 means the last cell in Python, on the other "
        "side. A cell outside counts as 0.": around_the_back(cells, BORDER),
        "Right in the middle of the map. At the border you return 0 as soon as one of the four cells lies outside. "
        "Only that cell counts as 0, the others keep their shares.": torch.zeros(len(BORDER)),
        "Right in the middle of the map. At the border you share out among the cells that are left. Their shares stay "
        "as they are, and what lies outside counts as 0.": shared_out(cells, BORDER),
    }, tolerance=1e-4)


def map_of_numbers() -> Tensor:
    """A map (4, 6) that is neither symmetric nor smooth."""
    torch.manual_seed(11)
    return torch.randint(1, 10, (4, 6)).float()


def read_all(function: object, cells: Tensor, places: Sequence[Place]) -> Tensor:
    """What a student's function reads at all places, (N,)."""
    return torch.stack([numbers(ask(function, cells, *place)).squeeze() for place in places])


def bilinear(cells: Tensor, places: Sequence[Place], **options: object) -> Tensor:
    """What PyTorch reads at places from 0 to 1, (N,)."""
    grid = torch.tensor(places)[None, None] * 2 - 1
    return F.grid_sample(cells[None, None], grid, **({"align_corners": False} | options))[0, 0, 0]


def corners_of(cells: Tensor, place: Place) -> tuple[int, int, float, float]:
    """The upper left of the four cells, (row, column), and how far the place is on the way to the next ones."""
    column, row = place[0] * cells.shape[1] - 0.5, place[1] * cells.shape[0] - 0.5
    left, top = math.floor(column), math.floor(row)
    return top, left, row - top, column - left


def mix(cells: Tensor, place: Place, share: Callable[[float, float], list[list[float]]]) -> Tensor:
    """The four cells around a place, added up with shares made from the two parts (down, across)."""
    top, left, down, across = corners_of(cells, place)
    return (cells[top: top + 2, left: left + 2] * torch.tensor(share(down, across))).sum()


def slips_of_read(cells: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it reads at the places inside."""
    height, width = cells.shape
    late = [(x + 0.5 / width, y + 0.5 / height) for x, y in INSIDE]
    mirrored = torch.stack([mix(cells, place, lambda b, a: [[b * a, b * (1 - a)], [(1 - b) * a, (1 - b) * (1 - a)]])
                            for place in INSIDE])
    return {
        "The half cell is missing: a cell's value sits at its middle, so cell i is at i + 0.5. Subtract 0.5 after you "
        "multiplied with the number of cells.": bilinear(cells, late),
        "You put 0 and 1 on the middles of the outer cells (align_corners=True). They are the borders of the map: "
        "x * w - 0.5, not x * (w - 1).": bilinear(cells, INSIDE, align_corners=True),
        "That is the nearest cell. Between cells you want the weighted mean of four.":
            bilinear(cells, INSIDE, mode="nearest"),
        "x and y are swapped. x goes across, along the columns, and those are the map's second axis.":
            bilinear(cells, [(y, x) for x, y in INSIDE]),
        "The four shares are on the wrong cells: the nearer a cell, the larger its share. On the way from left to "
        "right the left one has 1 - part.": mirrored,
        "That is the plain mean of the four cells. The nearer a cell, the larger its share.":
            torch.stack([mix(cells, place, lambda b, a: [[0.25, 0.25], [0.25, 0.25]]) for place in INSIDE]),
        "You took x and y for numbers of cells. They go from 0 to 1: multiply with w and h first.":
            bilinear(cells, [(x / width, y / height) for x, y in INSIDE]),
    }


def around_the_back(cells: Tensor, places: Sequence[Place]) -> Tensor:
    """Somebody who lets negative indices be; beyond the other side there is nothing."""
    height, width = cells.shape
    found = []
    for place in places:
        top, left, down, across = corners_of(cells, place)
        parts = [(top, left, (1 - down) * (1 - across)), (top, left + 1, (1 - down) * across),
                 (top + 1, left, down * (1 - across)), (top + 1, left + 1, down * across)]
        found.append(sum(share * cells[row, column] for row, column, share in parts if row < height and column < width))
    return torch.stack([torch.as_tensor(value, dtype=torch.float32) for value in found])


def shared_out(cells: Tensor, places: Sequence[Place]) -> Tensor:
    """Somebody who divides by the shares of the cells inside; 0 where there are none."""
    inside = bilinear(torch.ones_like(cells), places)
    return torch.where(inside > 0, bilinear(cells, places) / inside.clamp(min=1e-9), 0)


# ---------------------------------------------------------------- 11.compass


def check_compass(first_offsets: object) -> None:
    """first_offsets(heads, points) -> (heads, points, 2) as (x, y) in cells."""
    judge(ask(first_offsets, 8, 4), rays(8, 4), slips_of_compass(8, 4))
    judge(ask(first_offsets, 5, 3), rays(5, 3), {
        "Right for 8 heads and 4 points. With 5 heads the directions are still those of 8: divide the full turn by "
        "the number of heads.": rays(8, 3)[:5],
        "Right for 8 heads and 4 points. With 5 heads, a direction's larger part is not 1 everywhere: divide each "
        "direction by its own larger part.": circle(5, 3),
        **slips_of_compass(5, 3),
    })


def rays(heads: int, points: int) -> Tensor:
    """The right answer."""
    return compass(heads)[:, None] * torch.arange(1.0, points + 1)[:, None]


def circle(heads: int, points: int) -> Tensor:
    """Points on circles instead of squares."""
    angle = torch.arange(heads) * (2 * math.pi / heads)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)[:, None] * torch.arange(1.0, points + 1)[:, None]


def slips_of_compass(heads: int, points: int) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    right, angle = rays(heads, points), torch.linspace(0, 2 * math.pi, heads)
    closed = torch.stack([angle.cos(), angle.sin()], dim=-1)
    closed = closed / closed.abs().amax(-1, keepdim=True)
    return {
        "Your points lie on circles. On a square the diagonal ones are further away: divide each direction by its "
        "larger part, without its sign.": circle(heads, points),
        "Your points begin at 0 cells, on the reference itself. They are 1, 2, ... cells away.":
            right - right[:, :1],
        "Your compass goes round the other way. In an image y grows downwards, so sin needs no minus.":
            right * torch.tensor([1.0, -1.0]),
        "x and y are in each other's place: x first, the cosine.": right.flip(-1),
        "Your last head looks where the first one does: the full turn is there twice. Use angle m * 2 pi / heads.":
            closed[:, None] * torch.arange(1.0, points + 1)[:, None],
        "All points of a head lie in one place. Point k, from 1 on, is k cells away.":
            right[:, :1].expand(-1, points, -1),
        "Heads and points are in each other's place: the shape is (heads, points, 2).": right.transpose(0, 1),
    }


# ---------------------------------------------------------------- 11.levels


def check_levels(on_all_levels: object) -> None:
    """on_all_levels(values, reference (2,), offsets (levels, points, 2), scores (levels, points)) -> (c,)."""
    torch.manual_seed(11)
    values = [torch.randn(3, 4, 8), torch.randn(3, 2, 4)]
    reference, offsets, scores = torch.tensor([0.45, 0.55]), torch.rand(2, 3, 2) - 0.5, 2 * torch.randn(2, 3)
    given = (values, reference, offsets, scores)
    judge(ask(on_all_levels, *given), pyramid(*given), slips_of_levels(*given))


def gathered(values: list[Tensor], reference: Tensor, offsets: Tensor, **options: object) -> Tensor:
    """What is read at reference + offset, offsets as fractions of the map, (levels, c, points)."""
    options = {"align_corners": False} | options
    found = [F.grid_sample(level[None], ((reference + offset) * 2 - 1)[None, None], **options)
             for level, offset in zip(values, offsets, strict=True)]
    return torch.stack([part[0, :, 0] for part in found])


def cells_of(values: list[Tensor]) -> Tensor:
    """Width and height of every level, (levels, 1, 2)."""
    return torch.tensor([[level.shape[2], level.shape[1]] for level in values]).float()[:, None]


def weighted(found: Tensor, weights: Tensor) -> Tensor:
    """(levels, c, points) and (levels, points) -> (c,)."""
    return (found * weights[:, None]).sum((0, 2))


def pyramid(values: list[Tensor], reference: Tensor, offsets: Tensor, scores: Tensor) -> Tensor:
    """The right answer."""
    weights = scores.flatten().softmax(0).view_as(scores)
    return weighted(gathered(values, reference, offsets / cells_of(values)), weights)


def slips_of_levels(values: list[Tensor], reference: Tensor, offsets: Tensor, scores: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    size, weights = cells_of(values), scores.flatten().softmax(0).view_as(scores)
    found = gathered(values, reference, offsets / size)
    flat = torch.full_like(scores, 1 / scores.numel())
    return {
        "You took one softmax per level. All levels compete in a single one: flatten the scores first.":
            weighted(found, scores.softmax(1)),
        "One softmax per level again, and then the mean of the levels. All levels compete in a single one.":
            weighted(found, scores.softmax(1)) / len(values),
        "You took the softmax over the levels, for each point alone. It runs over levels and points together.":
            weighted(found, scores.softmax(0)),
        "The scores are no weights yet: take their softmax.": weighted(found, scores),
        "You took the plain mean of what was read. Weigh it by the softmax of the scores.": weighted(found, flat),
        "Offsets are divided by (h, w). x belongs to the width: divide by (w, h).":
            weighted(gathered(values, reference, offsets / size.flip(-1)), weights),
        "Offsets count cells, and the reference is a fraction. Divide the offsets by the size of their level.":
            weighted(gathered(values, reference, offsets), weights),
        "All offsets are divided by the size of the first level. They are in cells of their own level.":
            weighted(gathered(values, reference, offsets / size[:1]), weights),
        "`grid_sample` counts from -1 to 1, and you gave it places from 0 to 1: * 2 - 1.":
            weighted(gathered(values, (reference + 1) / 2, offsets / size / 2), weights),
        "`grid_sample` was told align_corners=True. Then 0 and 1 are the middles of the outer cells, not the borders.":
            weighted(gathered(values, reference, offsets / size, align_corners=True), weights),
        "You read the first level only.": weighted(found[:1], weights[:1]),
    }


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "11.read", "Read between the cells", Tier.WARM_UP, 10, check_read,
        ("Section 3 did it with numbers. From a fraction to cells: x * w - 0.5 is 0 at the middle of the first column.",
         "left = math.floor(x * w - 0.5), part = x * w - 0.5 - left; the left column has 1 - part, the right one part. "
         "The same for rows. Skip cells whose row or column is outside."),
        "Written with a share for every column, max(0, 1 - distance), it needs no special case at the border.",
    ),
    Exercise(
        "11.compass", "A compass for any number of heads", Tier.CORE, 12, check_compass,
        ("Head m has the angle m * 2 pi / heads. Its direction is (cos, sin), x first.",
         "Divide each direction by the larger of |x| and |y|: `direction.abs().amax(-1, keepdim=True)`. Then times "
         "1, 2, ..., points, in an axis of its own."),
        "With 8 heads and one point, a query on the middle of a cell starts by reading that cell's eight neighbours.",
    ),
    Exercise(
        "11.levels", "Several levels, one query", Tier.STRETCH, 25, check_levels,
        ("Level by level: the place is reference + offset / (w, h) of that level. The softmax comes once, before that.",
         "weights = scores.flatten().softmax(0).view_as(scores). `grid_sample` wants a map as (1, c, h, w) and places "
         "as (1, 1, points, 2) from -1 to 1; it gives (1, c, 1, points)."),
        "For each query and each head, that is equation 3 of the paper, but for two matrices.",
    ),
)

QUIZ = (
    Question("What decides where a deformable head looks?", (
        Choice("How well the query's vector fits the key of each place", "There are no keys here, and no comparisons."),
        Choice("The query alone: a reference point, and offsets computed from its vector",
               "Yes. So in layer 1 of our detector the places are the same in every image.", True),
        Choice("Where the feature map is largest", "The map is read only after the places have been chosen."),
    )),
    Question("The feature map gets twice as wide and twice as high. What happens to the price of an encoder layer?", (
        Choice("Deformable about 4 times, dense about 16 times",
               "Yes. Four times the tokens; each reads a fixed number of places, or all of them.", True),
        Choice("Deformable stays the same, dense about 4 times",
               "There are four times as many tokens that ask, and each of them reads something."),
        Choice("Both about 16 times", "That holds for dense attention: every token is compared with every other."),
    )),
    Question("With refinement the next layer gets the box detached. What does that mean?", (
        Choice("The next layer does not know the box", "It gets the numbers. Only the gradient does not come back."),
        Choice("A layer's loss teaches its own correction, not those of the layers before",
               "Yes. Each layer has a loss of its own and answers for that.", True),
        Choice("The box is no longer trained", "It is, by the loss of the layer that made it."),
    )),
)
