from itertools import permutations

import pytest
import torch

from detr_mini.matching import HungarianMatcher, assign
from detr_mini.recipes import LossRecipe


def scene(queries: int, objects: list[int], layers: int = 1, classes: int = 3, seed: int = 0):
    """Random logits, boxes and targets."""
    generator = torch.Generator().manual_seed(seed)
    shape = (layers, len(objects), queries)
    logits = torch.randn(*shape, classes, generator=generator)
    boxes = torch.rand(*shape, 4, generator=generator) * 0.5 + 0.1
    targets = [
        {
            "labels": torch.randint(classes - 1, (count,), generator=generator),
            "boxes": torch.rand(count, 4, generator=generator) * 0.5 + 0.1,
            "image_id": 100 + i,
        }
        for i, count in enumerate(objects)
    ]
    return logits, boxes, targets


def brute_force(cost: torch.Tensor) -> float:
    """The cheapest total over every possible assignment of a (Q, M) cost."""
    queries, objects = cost.shape
    if objects > queries:
        cost, queries, objects = cost.T, objects, queries
    return min(sum(cost[q, m].item() for m, q in enumerate(chosen)) for chosen in permutations(range(queries), objects))


@pytest.mark.parametrize("head", ["softmax", "focal"])
def test_two_thousand_random_cases_against_brute_force(head):
    matcher = HungarianMatcher(LossRecipe(), head)
    generator = torch.Generator().manual_seed(1)
    for seed in range(1000):
        queries, objects = torch.randint(1, 5, (2,), generator=generator).tolist()
        logits, boxes, targets = scene(queries, [objects], seed=seed)
        cost = matcher.costs(logits, boxes, targets[0]["labels"][None], targets[0]["boxes"][None])[0, 0]
        pairs = matcher(logits, boxes, targets).pairs(0, 0)
        assert len(pairs) == min(queries, objects)
        assert len({q for q, _ in pairs}) == len({m for _, m in pairs}) == len(pairs)
        assert sum(cost[q, m].item() for q, m in pairs) == pytest.approx(brute_force(cost), abs=1e-5)


def test_cost_of_one_pair_by_hand():
    logits = torch.tensor([[[[2.0, 0.0, 0.0]]]])
    boxes = torch.tensor([[[[0.25, 0.25, 0.5, 0.5]]]])
    labels, wanted = torch.tensor([[0]]), torch.tensor([[[0.75, 0.25, 0.5, 0.5]]])
    cost = HungarianMatcher(LossRecipe(), "softmax").costs(logits, boxes, labels, wanted)
    probability = torch.tensor([2.0, 0.0, 0.0]).softmax(0)[0]
    assert cost.item() == pytest.approx(-probability.item() + 5 * 0.5 + 2 * 0.0, abs=1e-6)  # side by side: GIoU 0


def test_layers_and_images_are_matched_on_their_own():
    logits, boxes, targets = scene(6, [2, 0, 4], layers=3)
    matcher = HungarianMatcher(LossRecipe(), "softmax")
    together = matcher(logits, boxes, targets)
    for layer in range(3):
        for image in range(3):
            alone = matcher(logits[layer, image][None, None], boxes[layer, image][None, None], [targets[image]])
            assert together.pairs(layer, image) == alone.pairs(0, 0)
    assert [len(together.pairs(0, image)) for image in range(3)] == [2, 0, 4]


def test_no_objects_anywhere_gives_no_pairs():
    logits, boxes, targets = scene(4, [0, 0], layers=2)
    assert len(HungarianMatcher(LossRecipe(), "focal")(logits, boxes, targets).query) == 0


def test_more_objects_than_queries_matches_every_query():
    logits, boxes, targets = scene(2, [5])
    pairs = HungarianMatcher(LossRecipe(), "softmax")(logits, boxes, targets).pairs(0, 0)
    assert [query for query, _ in pairs] == [0, 1] and len({target for _, target in pairs}) == 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_costs_that_are_not_finite_name_layer_and_image(bad):
    logits, boxes, targets = scene(4, [2, 2], layers=3)
    boxes[2, 1, 0, 0] = bad
    with pytest.raises(ValueError, match=r"decoder layer 2, image 1 of the batch \(image_id 101\)"):
        HungarianMatcher(LossRecipe(), "softmax")(logits, boxes, targets)


def test_a_fault_in_padded_columns_does_not_matter():
    logits, boxes, targets = scene(4, [1, 3])
    pairs = HungarianMatcher(LossRecipe(), "softmax")(logits, boxes, targets)
    assert len(pairs.pairs(0, 0)) == 1 and len(pairs.pairs(0, 1)) == 3


def test_greedy_can_be_worse():
    cost = torch.tensor([[1.0, 2.0], [1.5, 9.0]])
    assert assign(cost, 0, 0, [{}]) == [(0, 1), (1, 0)]  # greedy would take (0, 0) and pay 10 instead of 3.5
