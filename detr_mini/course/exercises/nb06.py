"""Exercises and quiz of 06, decoder and queries."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr_mini.attention import attention_weights
from detr_mini.course.exercises.core import Choice, Exercise, Question, Tier, Wrong, ask, forbids, judge, numbers

# ---------------------------------------------------------------- 06.first


def check_first(first_meeting: object) -> None:
    """first_meeting(value_weight (d, d), value_bias (d,), output_weight (d, d), output_bias (d,)) -> (d,)."""
    first_meeting = forbids(first_meeting, "All values are alike, so no weights are needed.", attention_weights,
                            torch.softmax, F.scaled_dot_product_attention, nn.MultiheadAttention)
    draw = torch.Generator().manual_seed(6)
    w_v, b_v, w_o, b_o = (torch.randn(*shape, generator=draw) for shape in ((3, 3), (3,), (3, 3), (3,)))
    judge(ask(first_meeting, w_v, b_v, w_o, b_o), w_o @ b_v + b_o, {
        "Nothing comes in, but something comes out: the value projection adds its bias, even to zeros.": torch.zeros(3),
        "That is the value of each query. The attention average leaves it as it is; the output projection does not.":
            b_v,
        "The output projection has a bias, too.": w_o @ b_v,
        "The values are not zero: W·0 + b is b. What does the output projection make of it?": b_o,
        "The output matrix is the wrong way round: nn.Linear computes weight @ x + bias.": w_o.T @ b_v + b_o,
        "The content is 0, so the value matrix has nothing to work on. Only its bias is left.": w_o @ (w_v @ b_v) + b_o,
        "You added the rows of the value matrix, as for a content of ones. The content is 0.":
            w_o @ (w_v.sum(1) + b_v) + b_o,
    })


# ---------------------------------------------------------------- 06.cross


def check_cross(ask_image: object) -> None:
    """ask_image(content (Q, d), address (Q, d), memory (N, d), position (N, d)) -> (Q, d)."""
    draw = torch.Generator().manual_seed(3)
    content, address = (torch.randn(3, 4, generator=draw) for _ in range(2))
    memory, position = (torch.randn(5, 4, generator=draw) for _ in range(2))
    inputs = (content, address, memory, position)
    judge(ask(ask_image, *inputs), collect(*inputs), slips_of_cross(*inputs))
    square = (content, address, memory[:3], position[:3])  # as many places as queries: now no shape gives it away
    judge(ask(ask_image, *square), collect(*square), slips_of_cross(*square))


def collect(content: Tensor, address: Tensor, memory: Tensor, position: Tensor) -> Tensor:
    """The right answer, (Q, d)."""
    return attention_weights(content + address, memory + position) @ memory


def slips_of_cross(content: Tensor, address: Tensor, memory: Tensor, position: Tensor) -> dict[str, Tensor]:
    """What people write instead -> what it gives."""
    query, place = content + address, memory + position
    scores = query @ place.T / math.sqrt(query.shape[-1])  # (Q, N)
    slips = {
        "The image asks and the queries answer: one row per place came out. Queries ask: q is content + address, keys "
        "and values come from the memory.": scores.T.softmax(-1) @ content,
        "The softmax runs over the queries, so they compete for places and a query's weights do not add up to 1. "
        "Each query shares out its own attention: softmax over the places, the last axis.": scores.softmax(0) @ memory,
        "The position is in the values. It belongs to the keys only: found by place, collected is content.":
            scores.softmax(-1) @ place,
        "The queries have no address. Without it all of them ask alike in the first layer, where the content is 0.":
            attention_weights(content, place) @ memory,
        "You asked with the address alone. What the query has found so far counts, too: content + address.":
            attention_weights(address, place) @ memory,
        "Addresses and positions are nowhere: all queries ask alike in the first layer, and nobody asks for a place. "
        "q = content + address, k = memory + position.": attention_weights(content, memory) @ memory,
        "The keys have no position, so a query cannot ask for a place.": attention_weights(query, memory) @ memory,
        "You left out the scaling: divide the scores by √d.":
            (scores * math.sqrt(query.shape[-1])).softmax(-1) @ memory,
        "You added the residual. Here only what is collected is wanted.": collect(content, address, memory, position)
        + content,
        "These are the weights. Average the memory with them.": scores.softmax(-1),
    }
    if len(memory) == len(content):
        slips["The image asks and the queries answer. Only the shapes hid it."] = scores.T.softmax(-1) @ memory
    return slips


# ---------------------------------------------------------------- 06.repeats

# Fifteen detections, best first, on four things of which one is never found; in twentieths.
OVERLAP = torch.tensor([
    [0, 0, 0, 10], [3, 0, 9, 0], [1, 0, 13, 4], [1, 9, 2, 0], [8, 6, 0, 4],
    [0, 12, 0, 0], [7, 0, 16, 0], [14, 17, 0, 0], [0, 11, 0, 19], [0, 0, 0, 0],
    [0, 10, 0, 0], [0, 0, 0, 2], [3, 0, 19, 0], [5, 19, 0, 5], [0, 0, 0, 6],
]) / 20


def check_repeats(duplicates: object) -> None:
    """duplicates(overlap (N, M), demand) -> how many detections hit a thing that a better one had found."""
    hits = OVERLAP.amax(1) >= 0.5  # (N,)
    found = len(set(OVERLAP.argmax(1)[hits].tolist()))
    values = {
        "You counted every detection beyond the number of things. A box beside all things is loose, not a duplicate.":
            len(OVERLAP) - OVERLAP.shape[1],
        "You counted loose boxes, too. A duplicate hits a thing, and that thing was found before.":
            len(OVERLAP) - found,
        "You gave a box to its second choice when the first was taken. It describes the thing that it overlaps most, "
        "and that one is found already.": second_choices(OVERLAP, 0.5),
        "You counted all boxes on things. The first one on each is no duplicate.": int(hits.sum()),
        "You counted the things that were found.": found,
        "You counted a box once for each thing that it overlaps. It can describe one thing only: take the best.":
            int((OVERLAP >= 0.5).sum() - (OVERLAP >= 0.5).any(0).sum()),
        "An overlap of exactly `demand` is a hit: use >=.": repeated(OVERLAP, 0.5 + 1e-6),
        "A box that overlaps a thing too little has not found it. Put a thing into the set only when the overlap is at "
        "least `demand`.": marked_too_early(OVERLAP, 0.5),
    }
    slips = {message: torch.tensor(float(value)) for message, value in values.items()}
    judge(ask(duplicates, OVERLAP, 0.5), torch.tensor(float(repeated(OVERLAP, 0.5))), slips)
    judge(ask(duplicates, OVERLAP, 0.75), torch.tensor(float(repeated(OVERLAP, 0.75))), {
        "Right for a demand of 0.5, wrong for 0.75. Is 0.5 written into your function?":
            torch.tensor(float(repeated(OVERLAP, 0.5)))})
    for nothing, overlap in (("In an image without things", torch.zeros(3, 0)),
                             ("Where nothing is detected", torch.zeros(0, 3))):
        judge(ask(duplicates, overlap, 0.5, when=nothing), torch.tensor(0.0), {
            "In an image without things all boxes are loose. There is nothing that they could repeat: 0 duplicates.":
                torch.tensor(3.0)}, when=nothing)


def repeated(overlap: Tensor, demand: float) -> int:
    """The right answer."""
    hits = overlap.amax(1) >= demand
    return int(hits.sum()) - len(set(overlap.argmax(1)[hits].tolist()))


def marked_too_early(overlap: Tensor, demand: float) -> int:
    """Duplicates when a thing counts as found by any box that overlaps it most, however little."""
    seen, again = set(), 0
    for row in overlap:
        thing = int(row.argmax())
        again += bool(row[thing] >= demand) and thing in seen
        seen.add(thing)
    return again


def second_choices(overlap: Tensor, demand: float) -> int:
    """Duplicates when a box whose thing is taken may take another one that it overlaps enough."""
    taken, again = set(), 0
    for row in overlap:
        free = [thing for thing in range(len(row)) if row[thing] >= demand and thing not in taken]
        if free:
            taken.add(max(free, key=lambda thing: float(row[thing])))
        again += bool((row >= demand).any()) and not free
    return again


# ---------------------------------------------------------------- 06.rooms


def check_rooms(rooms: object) -> None:
    """rooms(groups, size) -> bias (groups * size, groups * size): 0 within a group, -inf between groups."""
    right = apart(3, 2)
    found = numbers(ask(rooms, 3, 2))
    if ((found == 0) | (found == 1)).all() and (found == 1).any():
        raise Wrong("These are 0 and 1. A bias is added to the scores: 0 changes nothing, minus infinity hides.")
    same_room = right == 0
    if found.shape == right.shape and found[~same_room].isinf().all() and found[same_room].isnan().all():
        raise Wrong("0 times minus infinity is not 0, it is nan. Put the infinities in their places instead: "
                    "`masked_fill`, or `torch.where`.")
    if hides_by_a_number(found, same_room):
        raise Wrong(f"You hide with {found[~same_room].max().item():g}. Behind a softmax a very large negative number "
                    "does as well, as long as all scores are much closer to 0 (`01.mask` judges what comes out, so it "
                    "takes -1e9). Here the bias itself is judged: float('-inf') hides whatever the scores are.")
    judge(found, right, {
        "It is upside down: queries of one group must see each other.":
            torch.zeros(6, 6).masked_fill(same_room, -math.inf),
        "Every query is alone in its room. A group has `size` queries that do see each other.":
            torch.full((6, 6), -math.inf).fill_diagonal_(0),
        "Nobody sees anybody, not even itself: the softmax of minus infinities is nan.": torch.full((6, 6), -math.inf),
        "Groups are mixed up: the first `size` queries are the first group, the next ones the second.":
            apart_by(torch.arange(3).repeat(2)),
        "You swapped the two numbers: `groups` groups of `size` queries each.": apart(2, 3),
        "All see all: nothing is separated.": torch.zeros(6, 6),
        "Queries do not see themselves. They are of their own group.": right.clone().fill_diagonal_(-math.inf),
    })
    judge(ask(rooms, 2, 4), apart(2, 4), {})


def hides_by_a_number(found: Tensor, same_room: Tensor) -> bool:
    """Whether all groups are kept apart by negative numbers that are not infinite."""
    hidden = found[~same_room] if found.shape == same_room.shape else torch.zeros(1)
    return bool((hidden < 0).all() and hidden.isfinite().all() and (found[same_room] == 0).all())


def apart(groups: int, size: int) -> Tensor:
    """The right bias."""
    return apart_by(torch.arange(groups).repeat_interleave(size))


def apart_by(group: Tensor) -> Tensor:
    """A bias that keeps queries of different groups apart; group: (Q,) the number of each query's group."""
    return torch.zeros(len(group), len(group)).masked_fill(group[:, None] != group, -math.inf)


# ---------------------------------------------------------------- all of them

EXERCISES = (
    Exercise(
        "06.first", "The first meeting", Tier.WARM_UP, 6, check_first,
        ("Every value is W·0 + b. What is the weighted average of vectors that are all the same?",
         "The average is value_bias, whatever the weights. Then comes the output projection, weight @ x + bias."),
        "One constant vector for every query. Whoever deletes this attention and keeps the constant changes nothing.",
    ),
    Exercise(
        "06.cross", "Ask the image", Tier.CORE, 12, check_cross,
        ("Who wants something? Its rows are the rows of the weights, (Q, N), and each row adds up to 1.",
         "q = content + address, k = memory + position, v = memory; softmax(q kᵀ / √d) v."),
        "Queries ask, the image answers. Whenever you are unsure which side is q, ask how many rows must come out.",
    ),
    Exercise(
        "06.repeats", "Count the duplicates", Tier.CORE, 12, check_repeats,
        ("Go through the rows from the top. Each detection points at one thing: the one it overlaps most.",
         "Keep a set of things already found. At least `demand` and in the set: a duplicate. At least `demand` and "
         "not in it: add it. An image without things has no best one; there the answer is 0."),
        "With this you can tell a detector that repeats itself from one that misses things. AP does not say which.",
    ),
    Exercise(
        "06.rooms", "Meetings in separate rooms", Tier.STRETCH, 15, check_rooms,
        ("Give every query the number of its group, (Q,). Two queries may see each other when the numbers are equal.",
         "`group[:, None] != group` is (Q, Q) and True for pairs to hide; `masked_fill` puts minus infinity there."),
        "This mask is Group DETR's idea (2022): several groups of queries train side by side and never meet, so each "
        "learns to divide the things on its own. Notebook 18 comes back to it.",
    ),
)

QUIZ = (
    Question("The queries' content starts at zero. What does the first self-attention give to each query?", (
        Choice("Nothing at all, a vector of zeros", "The value and output projections have biases."),
        Choice("The same constant vector", "Yes. All values are alike, so every average of them is alike, too.", True),
        Choice("A mixture that depends on the addresses",
               "Addresses set the weights. But all values are alike, so weights change nothing."),
    )),
    Question("In the decoder's cross-attention, which axis does the softmax run along?", (
        Choice("The places: each query's weights add up to 1", "Yes. It asks, and shares out its attention.", True),
        Choice("The queries: each place's weights add up to 1", "Then places would ask queries. It is a known slip."),
        Choice("Both", "One softmax runs along one axis: that of the keys."),
    )),
    Question("What does a decoder without self-attention lack?", (
        Choice("It cannot see the image", "Cross-attention does that."),
        Choice("Its queries cannot take account of each other, so a thing is claimed more often",
               "Yes. What is left are the shares of the image that each query learned for itself.", True),
        Choice("Its queries have no addresses", "They are added in cross-attention as well."),
    )),
)
