"""Sampling between cells, and attention of every kind drawn as maps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detr_mini.sampling import corners, sample
from detr_mini.trace import AttentionTrace, Traced, splat

SHAPES = [(5, 7), (3, 4), (1, 1)]
TOKENS = 35 + 12 + 1


def bilinear(values: Tensor, locations: Tensor, level: int) -> Tensor:
    """PyTorch's grid_sample as the judge: values (B, HW, heads, c), locations (B, Q, heads, levels, points, 2) ->
    (B, Q, heads, points, c) of one level."""
    height, width = SHAPES[level]
    maps = values.split([h * w for h, w in SHAPES], dim=1)[level].permute(0, 2, 3, 1)  # (B, heads, c, HW)
    maps = maps.unflatten(-1, (height, width)).flatten(0, 1)  # (B*heads, c, H, W)
    where = locations[..., level, :, :].transpose(1, 2).flatten(0, 1) * 2 - 1  # (B*heads, Q, points, 2)
    found = F.grid_sample(maps, where, align_corners=False)  # (B*heads, c, Q, points)
    return found.unflatten(0, (len(values), -1)).permute(0, 3, 1, 4, 2)


def scattered(points: int = 3, reach: float = 0.4) -> Tensor:
    """Locations (2, 6, 4, levels, points, 2), some of them outside the map by up to `reach`."""
    return torch.rand(2, 6, 4, len(SHAPES), points, 2, dtype=torch.float64) * (1 + 2 * reach) - reach


def test_it_is_the_weighted_sum_of_bilinear_samples() -> None:
    values, locations = torch.randn(2, TOKENS, 4, 3, dtype=torch.float64), scattered()
    weights = torch.rand(2, 6, 4, len(SHAPES), 3, dtype=torch.float64)
    wanted = sum((bilinear(values, locations, level) * weights[..., level, :, None]).sum(-2) for level in range(3))
    assert torch.allclose(sample(values, SHAPES, locations, weights), wanted.flatten(-2), atol=1e-12)


def test_gradients_are_those_of_the_formula() -> None:
    torch.manual_seed(3)
    inputs = (torch.randn(1, TOKENS, 2, 2, dtype=torch.float64), scattered()[:1, :3, :2],
              torch.rand(1, 3, 2, 3, 3, dtype=torch.float64))
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    assert torch.autograd.gradcheck(lambda v, at, w: sample(v, SHAPES, at, w), inputs, eps=1e-7, atol=1e-5)


def test_shares_of_a_sample() -> None:
    """Four cells, shares that sum to 1; a quarter of a cell beyond the border a quarter of it is lost."""
    shape = [(4, 8)]
    at = torch.tensor([[0.5, 0.5], [1 / 16, 1 / 8], [-1 / 32, 1 / 8], [-0.2, 0.5], [1.4, 1.4]])[:, None, None]
    index, share = corners(at, torch.tensor([1.0, 1, 1, 1, 1])[:, None, None], shape)  # (5, 1, 4)
    assert torch.allclose(share.sum(-1).flatten(), torch.tensor([1.0, 1.0, 0.25, 0.0, 0.0]), atol=1e-6)
    assert index[0].flatten().tolist() == [11, 12, 19, 20] and torch.allclose(share[0], torch.tensor(0.25))
    assert index.min() >= 0 and index.max() < 32


def test_on_the_border_between_two_samples_the_slope_is_one_sided() -> None:
    """On a cell's centre, where the slope jumps, the gradient is one of the two slopes: learning goes on there."""
    values = torch.arange(8.0).view(1, 8, 1, 1) ** 2  # one row of cells: 0, 1, 4, 9, ...
    at = torch.tensor([3.5 / 8, 0.5]).view(1, 1, 1, 1, 1, 2).requires_grad_()
    found = sample(values, [(1, 8)], at, torch.ones(1, 1, 1, 1, 1))
    slope = torch.autograd.grad(found.sum(), at)[0].flatten()[0] / 8
    assert found.item() == 9 and slope.item() in (9 - 4, 16 - 9)


def test_a_location_that_is_no_number_gives_no_number() -> None:
    at = torch.full((1, 1, 1, 1, 1, 2), float("nan"))
    assert sample(torch.ones(1, 8, 1, 1), [(2, 4)], at, torch.ones(1, 1, 1, 1, 1)).isnan().all()


# -- maps --------------------------------------------------------------------------------------------------------


class Recorder(Traced):
    """A stand-in for a detector: records what it is given, under the names that a detector uses."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Traced()

    def forward(self, padding_mask: Tensor, **record: Tensor) -> None:
        self.record(shapes=SHAPES, padding_mask=padding_mask)
        self.attention.record(**record)


def recorded(padding_mask: Tensor | None = None, **record: Tensor) -> AttentionTrace:
    """A trace with one record named "attention"."""
    hidden = torch.zeros(2, TOKENS, dtype=torch.bool) if padding_mask is None else padding_mask
    model: nn.Module = Recorder()
    with AttentionTrace(model) as trace:
        model(hidden, **record)
    return trace


def sampled_weights(points: int = 3) -> Tensor:
    """Weights (2, 6, 4, levels, points) that sum to 1 over levels and points."""
    weights = torch.rand(2, 6, 4, len(SHAPES) * points, dtype=torch.float64).softmax(-1)
    return weights.unflatten(-1, (len(SHAPES), points))


def test_a_sampled_map_is_what_the_values_were_multiplied_with() -> None:
    """The map is the derivative of the sampled sum by the values, also at the border and outside."""
    locations, weights = scattered(), sampled_weights()
    trace = recorded(locations=locations, weights=weights)
    values = torch.zeros(2, TOKENS, 4, 1, dtype=torch.float64, requires_grad=True)
    for query in range(6):
        out = sample(values, SHAPES, locations, weights)[:, query].sum()
        wanted = torch.autograd.grad(out, values)[0][..., 0].transpose(1, 2)  # (B, heads, HW)
        drawn = torch.cat([trace.maps("attention", level)[:, :, query].flatten(-2) for level in range(3)], dim=-1)
        assert torch.allclose(drawn, wanted, atol=1e-12)


def test_the_mass_of_a_sampled_map_is_the_mass_of_its_weights() -> None:
    """Inside, level by level and in all; of samples beyond the border only what falls outside is lost."""
    weights = sampled_weights()
    inside = recorded(locations=scattered(reach=-0.17)[..., :2, :, :], weights=weights[..., :2, :])
    for level in range(2):
        drawn = inside.maps("attention", level)
        assert drawn.shape == (2, 4, 6, *SHAPES[level])
        assert torch.allclose(drawn.sum((-2, -1)), weights[..., level, :].sum(-1).transpose(1, 2), atol=1e-12)
    far = recorded(locations=torch.full_like(scattered(), 2.0), weights=weights)
    half = recorded(locations=torch.tensor([0.0, 0.5]).double().expand_as(scattered()), weights=weights)
    for level in range(3):
        mass = weights[..., level, :].sum(-1).transpose(1, 2)
        assert far.maps("attention", level).abs().max() == 0
        assert torch.allclose(half.maps("attention", level).sum((-2, -1)), mass / 2, atol=1e-12)


def test_a_sampled_map_gives_nothing_to_padding() -> None:
    hidden = torch.zeros(2, TOKENS, dtype=torch.bool)
    hidden[1, :35].view(5, 7)[:, 4:] = True
    locations, weights = scattered(), sampled_weights()
    plain, padded = (recorded(mask, locations=locations, weights=weights) for mask in (None, hidden))
    assert torch.equal(padded.maps("attention")[..., :4], plain.maps("attention")[..., :4])
    assert padded.maps("attention")[1, ..., 4:].abs().max() == 0 < plain.maps("attention")[1, ..., 4:].max()


def test_a_factored_map_is_the_outer_product() -> None:
    rows, columns = torch.rand(2, 4, 6, 7).softmax(-1), torch.rand(2, 4, 6, 5).softmax(-1)
    drawn = recorded(row_weights=rows, column_weights=columns).maps("attention")
    assert drawn.shape == (2, 4, 6, 5, 7) and torch.allclose(drawn.sum((-2, -1)), torch.ones(2, 4, 6))
    assert torch.allclose(drawn[1, 2, 3, 4, 5], rows[1, 2, 3, 5] * columns[1, 2, 3, 4])


def test_a_dense_map_is_its_level_unfolded() -> None:
    weights = torch.rand(2, 4, 6, TOKENS).softmax(-1)
    trace = recorded(weights=weights, gaussian=weights.log())
    assert torch.equal(trace.maps("attention", 1).flatten(-2), weights[..., 35:47])
    assert torch.equal(trace.as_map(trace["attention"].gaussian, 2)[..., 0, 0], weights[..., 47].log())


def test_entropy_of_every_kind() -> None:
    """Even weights over n places have entropy log n; rows and columns together that of all their cells."""
    dense = recorded(weights=torch.full((1, 1, 1, 8), 1 / 8)).entropy("attention")
    even = torch.full((1, 2, 3, 3, 2), 1 / 6)  # (B, Q, heads, levels, points)
    sampled = recorded(weights=even, locations=torch.rand(1, 2, 3, 3, 2, 2)).entropy("attention")
    factored = recorded(row_weights=torch.full((1, 1, 1, 7), 1 / 7), column_weights=torch.full((1, 1, 1, 5), 1 / 5))
    assert sampled.shape == (1, 3, 2)
    for found, places in ((dense, 8), (sampled, 6), (factored.entropy("attention"), 35)):
        assert torch.allclose(found, torch.tensor(float(places)).log())


@pytest.mark.parametrize("points", [1, 4])
def test_splat_adds_up(points: int) -> None:
    """Two samples at one place weigh as one with both weights."""
    at, weights = torch.rand(1, 2, 3, points, 2) * 0.6 + 0.2, torch.rand(1, 2, 3, points)
    twice = splat(torch.cat([at, at], dim=-2), torch.cat([weights, weights], dim=-1), (6, 5))
    assert torch.allclose(twice, 2 * splat(at, weights, (6, 5)), atol=1e-6)
