"""Dropout with sixteen bits per element."""

import pytest
import torch

from detr_mini.dropout import LEVELS, Dropout, dropout


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.999])
def test_share_scale_and_gradient(rate: float) -> None:
    """As many elements vanish as asked for, the rest grow so that the mean stays, and gradients take the same way."""
    torch.manual_seed(0)
    x = torch.ones(1001, 999, requires_grad=True)  # not a multiple of four
    y = dropout(x, rate)
    share = (y == 0).float().mean().item()
    assert abs(share - rate) < 5 * (rate * (1 - rate) / x.numel()) ** 0.5 + 1 / LEVELS
    assert y[y != 0].unique().numel() == 1
    assert y.max().item() == pytest.approx(LEVELS / (LEVELS - round(rate * LEVELS)), rel=1e-6)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_neighbours_are_independent() -> None:
    """Four elements share one random number; that is not to be seen."""
    torch.manual_seed(0)
    gone = (dropout(torch.ones(400_000), 0.5) == 0).double().view(-1, 4)
    assert (torch.corrcoef(gone.T) - torch.eye(4)).abs().max() < 0.02
    assert abs(torch.corrcoef(torch.stack([gone[:-1, 3], gone[1:, 0]]))[0, 1]) < 0.02


def test_what_changes_nothing_and_what_drops_all() -> None:
    x = torch.randn(7, 3)
    assert dropout(x, 0.0) is x and dropout(x, 0.5, training=False) is x and Dropout(0.5).eval()(x) is x
    assert dropout(x, 1.0).abs().sum() == 0
    assert (Dropout(0.5)(torch.ones(1000)) == 0).any() and dropout(x[:0], 0.5).shape == (0, 3)


def test_one_seed_one_mask() -> None:
    """Seeds decide, as everywhere."""
    torch.manual_seed(3)
    first = dropout(torch.ones(100), 0.3)
    torch.manual_seed(3)
    assert torch.equal(first, dropout(torch.ones(100), 0.3))
