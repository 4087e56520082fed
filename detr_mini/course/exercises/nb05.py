"""Exercises and quiz of 05, the encoder."""

from collections.abc import Callable

import torch
from torch import Tensor

from detr_mini.attention import attention_weights
from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, Wrong, ask, judge, numbers

# ---------------------------------------------------------------- 05.tokens


def check_tokens(tokens_of: object) -> None:
    """tokens_of(maps (B, C, h, w)) -> (B, hw, C), place by place, row after row."""
    maps = torch.arange(2 * 6 * 3 * 4, dtype=torch.float32).reshape(2, 6, 3, 4)
    judge(ask(tokens_of, maps), maps.flatten(2).transpose(1, 2), {
        "The shape is right and the numbers are scrambled: reshape only re-reads them in the order in which they lie "
        "in memory. A token would get numbers of many places. First flatten h and w, then swap two axes.":
            maps.reshape(2, 12, 6),
        "That is (B, C, hw): one row per channel. A token is one place with all its channels. Swap the last two axes.":
            maps.flatten(2),
        "That is (hw, B, C), the order of the paper's code. This course has the batch first: (B, hw, C).":
            maps.flatten(2).permute(2, 0, 1),
        "The tokens go down the columns. Row after row, please: the positions come in that order, too.":
            maps.transpose(2, 3).flatten(2).transpose(1, 2),
        "You swapped the batch with the channels. Only the channels move, to the end.":
            maps.flatten(2).transpose(0, 1).transpose(1, 2),
        "The places are still two axes: (B, h, w, C). Flatten them to one.": maps.permute(0, 2, 3, 1),
    })
    maps = torch.arange(30.0).reshape(1, 5, 2, 3)
    judge(ask(tokens_of, maps), maps.flatten(2).transpose(1, 2), {})


# ---------------------------------------------------------------- 05.padding

SIZES = torch.tensor([[96, 64], [40, 90], [50, 33]])  # height, width in pixels


def check_padding(padding: object) -> None:
    """padding(sizes (B, 2) as height and width, height, width, stride) -> (B, h, w) bool, True on padding."""
    judge(as_numbers(ask(padding, SIZES, 96, 96, 16)), hidden_cells(SIZES, 96, 96, 16).float(), slips_of_padding())
    sizes = torch.tensor([[64, 128], [64, 65]])
    judge(as_numbers(ask(padding, sizes, 64, 128, 32)), hidden_cells(sizes, 64, 128, 32).float(), {
        "Right for one stride, wrong for another. Is a 16 written into your function?":
            hidden_cells(sizes, 64, 128, 16)[:, :2, :4].float(),
    })


def as_numbers(answer: object) -> Tensor:
    """A mask as 0 and 1; Wrong for one that holds other numbers."""
    found = numbers(answer)
    if not ((found == 0) | (found == 1)).all():
        raise Wrong("A mask is wanted: True where a cell is padding, False where it is image.")
    return found


def hidden_cells(sizes: Tensor, height: int, width: int, stride: int, shift: float = 0.0) -> Tensor:
    """The right mask, (B, h, w); shift: the point of a cell that decides, in pixels from its upper left corner."""
    down, across = (torch.arange(0, side, stride) + shift for side in (height, width))  # (h,), (w,)
    return (down[:, None] >= sizes[:, 0, None, None]) | (across >= sizes[:, 1, None, None])


def slips_of_padding() -> dict[str, Tensor]:
    """What people write instead -> the mask it gives for the first example."""
    right, pixels = hidden_cells(SIZES, 96, 96, 16), hidden_cells(SIZES, 96, 96, 1)
    down, across = torch.arange(0, 96, 16)[:, None], torch.arange(0, 96, 16)
    both = (down >= SIZES[:, 0, None, None]) & (across >= SIZES[:, 1, None, None])
    masks = {
        "The mask is upside down: True means padding, a cell that must not be looked at.": ~right,
        "Height and width are swapped: sizes has the height first, and rows are the first axis of a map.":
            hidden_cells(SIZES.flip(1), 96, 96, 16),
        "Only the corner is hidden, where a cell is below the picture and also to the right of it. One of the two is "
        "enough: use | instead of &.": both,
        "Cells that are partly picture are hidden, too. The last row of things would never be seen. A cell is padding "
        "when its upper left pixel is.": hidden_cells(SIZES, 96, 96, 16, shift=15),
        "You asked the middle of each cell. `interpolate` with nearest takes the upper left pixel.":
            hidden_cells(SIZES, 96, 96, 16, shift=8),
        "One cell too few is hidden: a picture of height 96 has the rows 0 to 95. Use >=.":
            (down > SIZES[:, 0, None, None]) | (across > SIZES[:, 1, None, None]),
        "That is the mask of the pixels, (B, H, W). The encoder has one token per cell: (B, H/stride, W/stride).":
            pixels,
        "Nothing is hidden.": torch.zeros_like(right),
    }
    return {message: mask.float() for message, mask in masks.items()}


# ---------------------------------------------------------------- 05.layer


def check_layer(encoder_layer: object) -> None:
    """encoder_layer(x, position, attend, norm1, feed_forward, norm2) -> (B, N, d), as in DETR."""
    draw = torch.Generator().manual_seed(5)
    x, position = (torch.randn(2, 5, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    mix = torch.randn(4, 4, generator=draw, dtype=torch.float64)

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attention_weights(query, key) @ value @ mix

    def feed_forward(tokens: Tensor) -> Tensor:
        return (tokens @ mix.T).relu() @ mix

    parts = (attend, norm(1.5, 0.2), feed_forward, norm(0.7, -0.4))
    judge(ask(encoder_layer, x, position, *parts), post_norm(x, position, *parts), slips_of_layer(x, position, *parts))


def norm(scale: float, shift: float) -> Callable[[Tensor], Tensor]:
    """A LayerNorm over the last axis with one scale and one shift."""
    return lambda x: (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0) * scale + shift


Part = Callable[..., Tensor]


def post_norm(x: Tensor, position: Tensor, attend: Part, norm1: Part, feed: Part, norm2: Part) -> Tensor:
    """DETR's layer."""
    x = norm1(x + attend(x + position, x + position, x))
    return norm2(x + feed(x))


def slips_of_layer(
    x: Tensor, position: Tensor, attend: Part, norm1: Part, feed: Part, norm2: Part
) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    placed = x + position
    found = attend(placed, placed, x)
    middle = norm1(x + found)

    def end(attended: Tensor, start: Tensor = x) -> Tensor:
        first = norm1(start + attended)
        return norm2(first + feed(first))

    early = x + attend(norm1(x) + position, norm1(x) + position, norm1(x))
    return {
        "The position is in the values, too. Values are what is collected: what a place holds, not where it is. "
        "Only queries and keys get the position.": end(attend(placed, placed, placed)),
        "The position is nowhere. Add it to queries and keys.": end(attend(x, x, x)),
        "The keys have no position, so nobody can be found by place. Add it to queries and keys.":
            end(attend(placed, x, x)),
        "The queries have no position. Add it to queries and keys.": end(attend(x, placed, x)),
        "The residual starts from x + position, so the position stays in the content for good. It is lent to queries "
        "and keys only.": end(found, placed),
        "You overwrote x with x + position: now it is in the values and in the residual, too.":
            end(attend(placed, placed, placed), placed),
        "The first residual is missing: what a token was is replaced by what it collected. Add x before the norm.":
            end(found, torch.zeros_like(x)),
        "The second residual is missing: add what goes into the feed-forward part to what comes out.":
            norm2(feed(middle)),
        "Both residuals are missing: nothing is left of what a token was. Add to each part's answer what went into it: "
        "norm(x + part(x)).": norm2(feed(norm1(found))),
        "The second residual adds the layer's input. Add what went into the feed-forward part, the first norm's "
        "output.": norm2(x + feed(middle)),
        "The two norms are missing. Each sum is normalised: norm(x + part(x)).": x + found + feed(x + found),
        "Keys and values are mixed up: the order is attend(query, key, value). The position belongs to query and key.":
            end(attend(placed, x, placed)),
        "You normalise before each part (pre-norm). DETR normalises after each sum (post-norm).":
            early + feed(norm2(early)),
        "The two norms are swapped.": norm1(norm2(x + found) + feed(norm2(x + found))),
        "The feed-forward part got x, from before the attention. It works on the first norm's output.":
            norm2(middle + feed(x)),
        "The layer ends after the attention. The feed-forward part is missing, with its residual and its norm.": middle,
        "The last norm is missing.": middle + feed(middle),
        "The first norm is missing.": norm2(x + found + feed(x + found)),
    }


# ---------------------------------------------------------------- 05.share


def check_share(share: object) -> None:
    """share(weights (heads, N, N), inside (N,) bool) -> how many times its area a thing gets of its own attention."""
    draw = torch.Generator().manual_seed(2)
    weights = (2 * torch.randn(3, 10, 10, generator=draw)).softmax(-1)
    inside = torch.tensor([0, 1, 1, 0, 0, 1, 0, 0, 0, 0], dtype=torch.bool)
    area, own = inside.float().mean(), weights[:, inside][..., inside].sum(-1)  # (), (heads, n)
    judge(ask(share, weights, inside), own.mean() / area, {
        "That is the attention itself. Divide by the part of all places that the thing covers.": own.mean(),
        "You took the rows of the places outside. The askers are the places inside, too.":
            weights[:, ~inside][..., inside].sum(-1).mean() / area,
        "You counted who looks at the thing from everywhere. Take only the rows of places inside it.":
            weights[..., inside].sum(-1).mean() / area,
        "You have the mean weight per pair of places. A row's weights on the thing belong together: sum them first.":
            weights[:, inside][..., inside].mean() / area,
        "You added up the rows. Take their mean: how much does one place give?": own.sum() / area,
        "You added up the heads. Each has weights of its own that add up to 1: take the mean.":
            own.sum(0).mean() / area,
        "The ratio is upside down.": area / own.mean(),
        "That is the difference. Wanted is the ratio: how many times.": own.mean() - area,
        "That is the attention to everything else, over its area.": (1 - own.mean()) / (1 - area),
    })
    even, half = torch.full((2, 6, 6), 1 / 6), torch.arange(6) < 3
    judge(ask(share, even, half), torch.tensor(1.0), {
        "Right for the first example only. Even attention must give 1.": own.mean() / area})


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "05.tokens", "A map becomes tokens", Tier.WARM_UP, 6, check_tokens,
        ("Two steps. First make one axis of h and w. Then bring the channels to the end.",
         "`maps.flatten(2)` is (B, C, hw). `transpose(1, 2)` swaps its last two axes."),
        "The same numbers, read place by place. `reshape` alone would have given the same shape and nonsense: shapes "
        "are necessary, not sufficient.",
    ),
    Exercise(
        "05.padding", "Which cells are padding?", Tier.CORE, 12, check_padding,
        ("The cells start at the pixels 0, stride, 2 * stride, ... Which of these starts lie beyond the picture?",
         "`torch.arange(0, height, stride)[:, None] >= sizes[:, 0, None, None]` is (B, h, 1). Across alike, then |."),
        "Most bugs with batches of different sizes are one of the mistakes that this check knows.",
    ),
    Exercise(
        "05.layer", "The layer, from its parts", Tier.CORE, 12, check_layer,
        ("Two lines. Each has the form norm(x + part(x)).",
         "First: queries and keys are x + position, values are x. The residual is x, without the position."),
        "Two lines, and six of them stacked are DETR's encoder.",
    ),
    Exercise(
        "05.share", "How much a thing looks at itself", Tier.STRETCH, 15, check_share,
        ("Take the rows of the places inside, `weights[:, inside]`. In each, sum the columns inside.",
         "The mean of these sums over heads and rows, divided by `inside.float().mean()`."),
        "Always ask what even attention would give. Without that, 0.20 would be just a number.",
    ),
)

QUIZ = (
    Question("A feature map has 2,048 channels on 25 x 34 places. What does the encoder get?", (
        Choice("2,048 tokens of 850 numbers", "That would be one token per channel. A token is a place."),
        Choice("850 tokens of 2,048 numbers", "Nearly. A 1x1 convolution brings the width to 256 first."),
        Choice("850 tokens of 256 numbers", "Yes. One token per place, after the 1x1 convolution.", True),
    )),
    Question("Positions are added to queries and keys, and not to values. What follows?", (
        Choice("Tokens find each other by place, but no address is added to what they collect",
               "Yes, so every layer adds it anew. That a token of the memory tells its place all the same (section 9) "
               "comes from what it collected where.", True),
        Choice("They are added to the memory", "Only values and the residual get into the memory."),
        Choice("Positions matter only in the first layer", "They are added to q and k in every layer."),
    )),
    Question("You double both sides of an image. What happens to the attention map of an encoder layer?", (
        Choice("It doubles", "Twice the sides are four times the tokens, and the map is tokens times tokens."),
        Choice("It becomes 4 times as large", "The tokens do. The map has a row and a column for each of them."),
        Choice("It becomes 16 times as large", "Yes: four times the tokens, squared.", True),
    )),
)
