import pytest
import torch
from torch import nn

from detr_mini.attention import MultiHeadAttention, attention_weights, padding_bias
from detr_mini.trace import AttentionTrace


@pytest.fixture
def case():
    """An attention of 4 heads, 2 images, 5 queries and 7 keys of which the last 3 of image 1 are padding."""
    torch.manual_seed(0)
    module = MultiHeadAttention(32, 4).eval()
    query, key = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    positions = torch.randn(2, 5, 32), torch.randn(2, 7, 32)
    padding = torch.zeros(2, 7, dtype=torch.bool)
    padding[1, 4:] = True
    return module, query, key, positions, padding


def run(case, traced: bool):
    module, query, key, positions, padding = case
    if not traced:
        return module(query, key, key, *positions, padding_bias(padding)), None
    with AttentionTrace(module) as trace:
        return module(query, key, key, *positions, padding_bias(padding)), trace[""]


def test_weights_by_hand():
    query, key = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    first, second = torch.tensor([2 / 2**0.5, 0.0]).exp()
    torch.testing.assert_close(attention_weights(query, key), torch.tensor([[first, second]]) / (first + second))


def test_fused_and_recorded_paths_are_equal(case):
    torch.testing.assert_close(run(case, traced=False)[0], run(case, traced=True)[0], atol=1e-5, rtol=0)


def test_rows_sum_to_one_and_padding_gets_nothing(case):
    _, record = run(case, traced=True)
    torch.testing.assert_close(record.weights.sum(-1), torch.ones(2, 4, 5))
    assert (record.weights[1, :, :, 4:] == 0).all()
    assert (record.weights[0] > 0).all()


def test_recorded_weights_times_values_reproduce_the_output(case):
    output, record = run(case, traced=True)
    module = case[0]
    torch.testing.assert_close(module.output(module.merge(record.weights @ record.value)), output)


def test_padding_changes_nothing_for_the_rest(case):
    module, query, key, positions, padding = case
    before = run(case, traced=False)[0]
    changed = key.masked_fill(padding[..., None], 100.0)
    torch.testing.assert_close(run((module, query, changed, positions, padding), traced=False)[0], before)


def test_agrees_with_pytorch_module(case):
    module, query, key, positions, padding = case
    theirs = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    projections = module.query, module.key, module.value
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        theirs.out_proj.weight.copy_(module.output.weight)
        theirs.out_proj.bias.copy_(module.output.bias)
        expected, weights = theirs(
            query + positions[0], key + positions[1], key, padding, average_attn_weights=False
        )
        output, record = run(case, traced=True)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(record.weights, weights, atol=1e-6, rtol=0)


def test_initial_weights_follow_the_fused_matrix():
    torch.manual_seed(0)
    ours, theirs = MultiHeadAttention(256, 8), nn.MultiheadAttention(256, 8)
    nn.init.xavier_uniform_(theirs.in_proj_weight)
    assert ours.query.weight.std().item() == pytest.approx(theirs.in_proj_weight.std().item(), rel=0.01)
    assert ours.output.bias.abs().max() == 0


def test_a_position_reaches_scores_and_never_values(case):
    module, query, key, positions, padding = case
    with torch.no_grad():
        with AttentionTrace(module) as trace:
            module(query, key, key, *positions)
        with_position = trace[""].value
        with AttentionTrace(module) as trace:
            module(query, key, key)
    assert torch.equal(with_position, trace[""].value)


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="d_model=30 cannot be split among 4 heads"):
        MultiHeadAttention(30, 4)


def test_a_bias_prefers_keys(case):
    module, query, key, *_ = case
    bias = torch.zeros(1, 1, 5, 7)
    bias[..., 2] = 50.0
    with AttentionTrace(module) as trace:
        module(query, key, key, bias=bias)
    assert (trace[""].weights[..., 2] > 0.999).all()


def test_traces_do_not_nest_and_name_what_they_know(case):
    module, query, key, *_ = case
    with AttentionTrace(module), pytest.raises(RuntimeError, match="traced already"):
        AttentionTrace(module).__enter__()
    trace = AttentionTrace(module)
    with pytest.raises(KeyError, match="nothing was recorded for 'encoder'; recorded: none"):
        trace["encoder"]
    assert module.trace is None


def test_entropy_of_uniform_attention_is_the_log_of_the_keys(case):
    module, query, key, *_ = case
    with torch.no_grad():
        for parameter in module.query.parameters():
            parameter.zero_()
    with AttentionTrace(module) as trace:
        module(query, key, key)
    torch.testing.assert_close(trace.entropy(""), torch.full((2, 4, 5), 7.0).log())
