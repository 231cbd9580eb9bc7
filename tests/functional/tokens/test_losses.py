"""Losses that know of entropy: values by slow oracles, gradients by closed forms, and trainings with them."""

from __future__ import annotations

import math
import re
import textwrap
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_softmax
from tiny_models import VOCAB, kinds, make_model
from torch.autograd import gradcheck

from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.lens.entropies import shannon_entropy
from tl_entropy.functional.tokens import losses as losses_module
from tl_entropy.functional.tokens.losses import (
    entropy_bonus,
    entropy_matching_loss,
    entropy_weighted_loss,
    min_max,
    token_losses,
)

NAN, INF = math.nan, math.inf
# One row without padding, one padded on the left, one on the right, and one with a gap.
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 1, 1]])


def draw(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def some_tokens(vocab=7, seed=1):
    return torch.randint(0, vocab, MASK.shape, generator=torch.Generator().manual_seed(seed))


# --- min_max


def scaled_by_hand(values, mask):
    out = np.zeros(values.shape)
    for i in range(len(values)):
        real = values[i][mask[i]].astype(np.longdouble)
        if len(real) and real.max() > real.min():
            out[i][mask[i]] = (real - real.min()) / (real.max() - real.min())
    return out


@given(
    arrays(np.float64, (3, 6), elements=st.floats(-1e300, 1e300).filter(lambda x: x == 0 or abs(x) > 1e-300)),
    arrays(bool, (3, 6)),
)
def test_min_max_is_that_by_hand(values, mask):
    found = min_max(torch.from_numpy(values), torch.from_numpy(mask)).numpy()
    np.testing.assert_allclose(found, scaled_by_hand(values, mask), rtol=1e-12, atol=1e-12)
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_min_max_of_any_dtype_and_the_widest_rows(dtype):
    most = torch.finfo(dtype).max
    values = torch.tensor([[-most, most, 0.0], [3.0, 3.0, 3.0], [1.0, 5.0, 2.0]], dtype=dtype)
    found = min_max(values)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert found.tolist() == [[0, 1, 0.5], [0, 0, 0], [0, 1, 0.25]]


def test_min_max_of_rows_with_one_cell_or_none():
    mask = torch.tensor([[False, False, False], [False, True, False], [True, False, True]])
    values = torch.tensor([[NAN, INF, 1], [NAN, 4, -INF], [7, NAN, 5]], requires_grad=True)
    found = min_max(values, mask)
    assert found.tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
    (found * torch.arange(9.0).view(3, 3)).sum().backward()
    assert values.grad.isfinite().all()
    assert values.grad[:2].eq(0).all()
    assert min_max(torch.zeros(2, 0)).shape == (2, 0)
    assert min_max(torch.tensor([1.0, 3.0, 2.0])).tolist() == [0, 1, 0.5]


def test_gradients_of_min_max():
    values = draw(4, 5).requires_grad_()
    assert gradcheck(lambda v: min_max(v, MASK), values)
    same = torch.ones(2, 3, requires_grad=True)
    (min_max(same) * torch.tensor([1.0, 2.0, 5.0])).sum().backward()
    assert same.grad.eq(0).all()


# --- token_losses


def losses_by_hand(logits, tokens, mask):
    losses, real = np.zeros((len(tokens), tokens.shape[1] - 1)), np.zeros((len(tokens), tokens.shape[1] - 1), dtype=bool)
    for b in range(len(tokens)):
        for i in range(1, tokens.shape[1]):
            if mask[b, i] and mask[b, i - 1]:
                real[b, i - 1] = True
                losses[b, i - 1] = -log_softmax(logits[b, i - 1].double().numpy())[tokens[b, i]]
    return losses, real


@pytest.mark.parametrize(
    ("dtype", "worst"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 1e-6), (torch.float16, 1e-6)]
)
@pytest.mark.parametrize("mask", [MASK, MASK.bool(), None], ids=["ints", "bools", "none"])
def test_each_loss_is_of_its_own_token(dtype, worst, mask):
    logits, tokens = (4 * draw(4, 5, 7)).to(dtype), some_tokens()
    losses, real = token_losses(logits, tokens, mask)
    expected, counted = losses_by_hand(logits, tokens, torch.ones(4, 5) if mask is None else mask)
    assert losses.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert real.dtype == torch.bool
    np.testing.assert_array_equal(real.numpy(), counted)
    np.testing.assert_allclose(losses.double().numpy(), expected, atol=worst)


def test_what_the_mask_leaves_out_leaks_nowhere():
    logits, tokens = draw(4, 5, 7), some_tokens()
    whole = logits.clone().requires_grad_()
    losses, real = token_losses(whole, tokens, MASK)
    losses.sum().backward()
    left_out = torch.cat((~real, torch.ones(4, 1, dtype=torch.bool)), 1)  # the last token predicts none
    for poison in (NAN, INF, -INF):
        spoilt = logits.masked_fill(left_out[..., None], poison).requires_grad_()
        found, _ = token_losses(spoilt, tokens.masked_fill(MASK == 0, -100), MASK)
        found.sum().backward()
        torch.testing.assert_close(found, losses, rtol=0, atol=0)
        torch.testing.assert_close(spoilt.grad, whole.grad, rtol=0, atol=0)
        assert spoilt.grad[left_out].eq(0).all()


def test_gradients_of_token_losses():
    tokens = some_tokens()
    assert gradcheck(lambda x: token_losses(x, tokens, MASK)[0], (4 * draw(4, 5, 7)).requires_grad_())
    logits = torch.tensor([[[0.0, 0.0, -INF], [0.0, 0.0, 0.0]]], requires_grad=True)
    token_losses(logits, torch.tensor([[0, 1]]))[0].sum().backward()
    assert logits.grad.tolist() == [[[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]]]


def test_impossible_tokens_and_short_rows():
    assert token_losses(torch.tensor([[[0.0, -INF], [0.0, 0.0]]]), torch.tensor([[0, 1]]))[0].item() == INF
    losses, real = token_losses(torch.zeros(2, 1, 3), torch.zeros(2, 1, dtype=torch.long))
    assert losses.shape == real.shape == (2, 0)


@pytest.mark.model
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_they_are_those_of_transformer_lens(gpt2, padding):
    tokens = torch.randint(1, VOCAB, (3, 12), generator=torch.Generator().manual_seed(3))
    lengths = torch.tensor([12, 7, 9])[:, None]
    places = torch.arange(12)[None]
    mask = {"none": lengths > -1, "left": places >= 12 - lengths, "right": places < lengths}[padding].expand(3, 12).long()
    options = {} if padding == "none" else {"attention_mask": mask}
    with torch.no_grad():
        logits, theirs = gpt2(tokens, return_type="both", loss_per_token=True, **options)
        mean = gpt2(tokens, return_type="loss", **options)
    losses, real = token_losses(logits, tokens, None if padding == "none" else mask)
    torch.testing.assert_close(losses, theirs, rtol=0, atol=2e-5)
    torch.testing.assert_close(losses.sum() / real.sum(), mean, rtol=0, atol=2e-5)
    weighted = entropy_weighted_loss(losses, torch.zeros_like(losses), mask=real)
    torch.testing.assert_close(weighted, mean, rtol=0, atol=2e-5)  # nothing is uncertain: the plain loss


# --- weighted and matching losses


def weighted_by_hand(losses, entropy, mask, normalize):
    mask = mask.numpy().astype(bool)
    weight = 1 - (scaled_by_hand(entropy.numpy(), mask) if normalize else entropy.numpy())
    return np.where(mask, weight * losses.numpy(), 0)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weighted_loss_is_that_by_hand(normalize, dtype):
    losses, entropy = draw(4, 5).abs().to(dtype), draw(4, 5, seed=2).sigmoid()
    expected = weighted_by_hand(losses.double(), entropy, MASK, normalize)
    options = {"mask": MASK, "normalize": normalize}
    found = entropy_weighted_loss(losses, entropy, reduction="none", **options)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(found.double().numpy(), expected, atol=1e-6)
    assert np.isclose(entropy_weighted_loss(losses, entropy, reduction="sum", **options).item(), expected.sum(), atol=1e-5)
    mean = entropy_weighted_loss(losses, entropy, **options).item()
    assert np.isclose(mean, expected.sum() / MASK.sum().item(), atol=1e-6)


def test_a_scale_and_a_start_change_no_normalised_weight():
    losses, entropy = draw(4, 5).abs(), draw(4, 5, seed=2)
    one, other = (entropy_weighted_loss(losses, e, mask=MASK) for e in (entropy, 3 * entropy + 100))
    torch.testing.assert_close(one, other)


def test_estimates_are_constants():
    losses, entropy = draw(4, 5).abs().requires_grad_(), draw(4, 5, seed=2).requires_grad_()
    entropy_weighted_loss(losses, entropy, mask=MASK).backward()
    assert entropy.grad is None
    expected = (1 - scaled_by_hand(entropy.detach().numpy(), MASK.numpy().astype(bool))) * MASK.numpy() / MASK.sum().item()
    np.testing.assert_allclose(losses.grad.numpy(), expected, atol=1e-12)
    losses.grad = None
    entropy_matching_loss(losses, entropy, mask=MASK).backward()
    assert entropy.grad is None
    expected = (losses - entropy).detach().sign() * MASK / MASK.sum()
    torch.testing.assert_close(losses.grad, expected)
    torch.testing.assert_close(torch.autograd.grad(entropy_matching_loss(losses, losses.detach()), losses)[0], 0 * expected)


@pytest.mark.parametrize("loss", [entropy_weighted_loss, entropy_matching_loss])
def test_what_is_left_out_does_not_matter(loss):
    losses, entropy = draw(4, 5).abs(), draw(4, 5, seed=2)
    whole = losses.clone().requires_grad_()
    expected = loss(whole, entropy, mask=MASK)
    expected.backward()
    spoilt = losses.masked_fill(MASK == 0, NAN).requires_grad_()
    found = loss(spoilt, entropy.masked_fill(MASK == 0, INF), mask=MASK.bool())
    found.backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(spoilt.grad, whole.grad, rtol=0, atol=0)
    empty = torch.zeros(4, 5, dtype=torch.bool)
    assert loss(losses, entropy, mask=empty, reduction="sum") == 0
    assert loss(losses, entropy, mask=empty, reduction="none").eq(0).all()


def test_matching_loss_is_that_by_hand():
    losses, entropy = draw(4, 5).abs(), draw(4, 5, seed=2)
    expected = ((losses - entropy).abs() * MASK).numpy()
    np.testing.assert_allclose(entropy_matching_loss(losses, entropy, mask=MASK, reduction="none").numpy(), expected)
    assert np.isclose(entropy_matching_loss(losses, entropy, mask=MASK, reduction="sum").item(), expected.sum())
    assert np.isclose(entropy_matching_loss(losses, entropy, mask=MASK).item(), expected.sum() / MASK.sum().item())
    assert gradcheck(lambda x: entropy_matching_loss(x, entropy, mask=MASK), losses.requires_grad_())


# --- the bonus


def test_bonus_is_the_mean_entropy():
    logits = 3 * draw(4, 5, 7)
    expected = -0.2 * shannon_entropy(logits)[MASK.bool()].mean()
    torch.testing.assert_close(entropy_bonus(logits, mask=MASK, weight=0.2), expected)
    torch.testing.assert_close(entropy_bonus(torch.zeros(2, 8), weight=1), torch.tensor(-math.log(8)))


def test_gradients_of_the_bonus():
    logits = (3 * draw(4, 5, 7)).requires_grad_()
    assert gradcheck(lambda x: entropy_bonus(x, mask=MASK, weight=0.3), logits)
    row = torch.tensor([1.0, -0.5, -INF, 2.0], dtype=torch.float64, requires_grad=True)
    entropy_bonus(row, weight=-1).backward()  # H itself
    p = row.detach().softmax(-1)
    log_p = p.log().masked_fill(p == 0, 0)
    torch.testing.assert_close(row.grad, -p * (log_p - (p * log_p).sum()))
    assert row.grad[2] == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_bonus_in_half_precision_is_worked_in_single(dtype):
    logits = (3 * draw(4, 5, 7)).to(dtype)
    logits[..., 3] = -INF
    half, single = logits.clone().requires_grad_(), logits.float().requires_grad_()
    pair = [entropy_bonus(x, mask=MASK, weight=1.0) for x in (half, single)]
    assert torch.equal(*pair)
    assert pair[0].dtype == torch.float32
    for value in pair:
        value.backward()
    assert half.grad.dtype == dtype
    torch.testing.assert_close(half.grad, single.grad.to(dtype), rtol=0, atol=0)
    assert half.grad.isfinite().all()
    assert half.grad[..., 3].eq(0).all()


def test_extreme_logits_and_what_is_left_out():
    logits = torch.tensor([[3e38, -3e38, 0.0], [NAN, INF, 0.0], [0.0, -1e4, -INF]], requires_grad=True)
    bonus = entropy_bonus(logits, mask=torch.tensor([1, 0, 1]), weight=1.0)
    bonus.backward()
    assert bonus == 0
    assert logits.grad.eq(0).all()


# --- refusals


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: min_max(torch.tensor([[1.0, NAN]])), NonFiniteError, r"values must be finite.*cell \(0, 1\) is nan"),
        (lambda: min_max(torch.tensor([1, 2])), InputTypeError, "values must be a floating-point"),
        (lambda: min_max(torch.ones(2, 3), torch.ones(3)), InputError, r"mask must have the shape \[2, 3\]"),
        (lambda: min_max(torch.ones(2), torch.tensor([1, 2])), InputError, "only 0 and 1"),
        (lambda: min_max(torch.ones(2), [1, 1]), InputTypeError, "mask must be a tensor"),
        (lambda: token_losses(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long)), InputError, "pos, d_vocab"),
        (lambda: token_losses(torch.zeros(2, 3, 0), torch.zeros(2, 3, dtype=torch.long)), InputError, "pos, d_vocab"),
        (lambda: token_losses(torch.zeros(1, 3, 4), torch.zeros(1, 3)), InputTypeError, "tokens must be an integer"),
        (lambda: token_losses(torch.zeros(1, 3, 4).long(), torch.zeros(1, 3).long()), InputTypeError, "logits must be"),
        (lambda: token_losses(torch.zeros(1, 3, 4), torch.tensor([[9, 1, 4]])), InputError, "between 0 and 3.*got 4"),
        (lambda: token_losses(torch.zeros(1, 3, 4), torch.tensor([[9, -1, 1]])), InputError, "got -1"),
        (lambda: token_losses(torch.full((1, 3, 4), NAN), torch.ones(1, 3).long()), NonFiniteError, r"row \(0, 0\)"),
        (lambda: token_losses(torch.full((1, 3, 4), -INF), torch.ones(1, 3).long()), InputError, "all -inf"),
        (lambda: entropy_weighted_loss(torch.ones(2, 3), torch.ones(2)), InputError, "shape of losses"),
        (lambda: entropy_weighted_loss(torch.ones(2), torch.tensor([0, 1])), InputTypeError, "entropy must be a float"),
        (lambda: entropy_weighted_loss(torch.tensor([1.0, INF]), torch.ones(2)), NonFiniteError, "losses must be finite"),
        (lambda: entropy_weighted_loss(torch.ones(2), torch.tensor([1.0, NAN])), NonFiniteError, "entropy must be finite"),
        (lambda: entropy_weighted_loss(torch.ones(2), torch.tensor([0.0, 1.5]), normalize=False), InputError, "got 1.5"),
        (lambda: entropy_weighted_loss(torch.ones(2), torch.tensor([0.0, -0.1]), normalize=False), InputError, "got -0.1"),
        (lambda: entropy_weighted_loss(torch.ones(2), torch.ones(2), reduction="max"), InputError, "reduction must be one"),
        (lambda: entropy_weighted_loss(torch.ones(2), torch.ones(2), mask=torch.zeros(2)), InputError, "mean of"),
        (lambda: entropy_matching_loss(torch.ones(2), torch.ones(2), mask=torch.zeros(2)), InputError, "mean of"),
        (lambda: entropy_bonus(torch.zeros(2, 3), mask=torch.zeros(2)), InputError, "mean of"),
        (lambda: entropy_bonus(torch.zeros(2, 3), weight=NAN), InputError, "weight must be a finite number"),
        (lambda: entropy_bonus(torch.zeros(2, 3), weight="1"), InputTypeError, "weight must be a finite number; got '1'"),
        (lambda: entropy_bonus(torch.zeros(2, 3), weight=torch.tensor(1.0)), InputTypeError, "weight must be a finite number"),
        (lambda: entropy_bonus(torch.zeros(2, 0)), InputError, "at least one outcome"),
        (lambda: entropy_bonus(torch.full((2, 3), INF)), NonFiniteError, "row 0"),
    ],
)
def test_what_they_refuse(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_weights_of_numpy():
    for weight in (np.float32(0.5), np.float64(0.5), Fraction(1, 2)):
        assert torch.equal(entropy_bonus(draw(2, 3), weight=weight), entropy_bonus(draw(2, 3), weight=0.5))


# --- trainings


def batch():
    return torch.randint(1, VOCAB, (4, 10), generator=torch.Generator().manual_seed(5))


def trained(model, loss_of, steps=12):
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(steps):
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.model
@pytest.mark.parametrize("kind", kinds())
def test_a_plain_training_loop_with_each_loss(kind):
    tokens = batch()
    target = torch.full((4, 9), 3.0)
    weights = torch.arange(36.0).view(4, 9)

    def losses_of(model):
        return token_losses(model(tokens, return_type="logits"), tokens)[0]

    measures = {
        "weighted": lambda model: entropy_weighted_loss(losses_of(model), weights),
        "matching": lambda model: entropy_matching_loss(losses_of(model), target),
        "bonus": lambda model: entropy_bonus(model(tokens, return_type="logits"), weight=1.0),
    }
    for name, measure in measures.items():
        model = make_model("gpt2", kind)
        before = measure(model).item()
        after = measure(trained(model, measure)).item()
        assert after < before - 0.05, name
        if name == "matching":  # from above, and no further than the target
            assert losses_of(model).mean() > 2


@pytest.mark.model
@pytest.mark.parametrize("kind", kinds())
def test_it_takes_the_place_of_the_models_own_loss(kind):
    """As the module's text says; what ``transformer_lens.train`` does where there is one, by hand where there is none."""
    model, tokens = make_model("gpt2", kind), batch()
    for module in [*model.modules(), *getattr(model, "original_model", model).modules()]:
        if isinstance(module, torch.nn.Dropout):  # so that training mode gives the same numbers
            module.p = 0.0
    estimates = {tuple(row.tolist()): draw(9, seed=i).abs() for i, row in enumerate(tokens)}
    seen = []

    def loss_fn(logits, tokens, attention_mask=None, per_token=False):
        losses, real = token_losses(logits, tokens, attention_mask)
        estimate = torch.stack([estimates[tuple(row.tolist())] for row in tokens])
        found = entropy_weighted_loss(losses, estimate, mask=real, reduction="none" if per_token else "mean")
        seen.append(found.detach())
        return found

    with torch.no_grad():
        own = model(tokens, return_type="loss", loss_per_token=True)
        entropy = torch.stack([estimates[tuple(row.tolist())] for row in tokens])
        by_hand = torch.from_numpy(weighted_by_hand(own.double(), entropy, torch.ones(4, 9), True))
        model.loss_fn = loss_fn
        torch.testing.assert_close(model(tokens, return_type="loss"), by_hand.mean().float(), rtol=0, atol=2e-5)
        found = model(tokens, return_type="both", loss_per_token=True)
        torch.testing.assert_close(found[1], by_hand.float(), rtol=0, atol=2e-5)
    seen.clear()
    if "hooked" in kinds():
        from transformer_lens.train import HookedTransformerTrainConfig, train

        config = HookedTransformerTrainConfig(num_epochs=12, batch_size=4, lr=3e-3, device="cpu", print_every=None)
        train(model, config, [{"tokens": row} for row in tokens])
    else:
        trained(model, lambda model: model(tokens, return_type="loss"))
    assert len(seen) == 12
    assert abs(seen[0].item() - by_hand.mean().item()) < 1e-4
    assert seen[-1] < seen[0] - 0.1
    del model.loss_fn
    with torch.no_grad():
        torch.testing.assert_close(
            model(tokens, return_type="loss"), model(tokens, return_type="loss", loss_per_token=True).mean()
        )
    assert len(seen) == 12


@pytest.mark.model
@pytest.mark.parametrize("kind", kinds())
def test_the_recipe_in_the_modules_text_leaves_padding_out(kind):
    """Run as it stands there: the other model, too, must not see what pads a row."""
    other, logits = make_model("gpt2", kind), draw(4, 10, VOCAB)
    recipe = re.search(r"(?ms)^    def loss_fn.*?^        return .*?$", losses_module.__doc__)[0]
    scope = {**vars(losses_module), "shannon_entropy": shannon_entropy, "other_model": other}
    exec(textwrap.dedent(recipe), scope)
    tokens = batch()
    mask = torch.ones_like(tokens)
    mask[:2, :3] = 0
    with torch.no_grad():
        estimate = shannon_entropy(other(tokens, attention_mask=mask))[:, :-1]
        blind = shannon_entropy(other(tokens))[:, :-1]
        losses, real = token_losses(logits, tokens, mask)
        assert (estimate - blind).abs()[real].max() > 1e-3
        expected = entropy_weighted_loss(losses, estimate, mask=real)
        torch.testing.assert_close(scope["loss_fn"](logits, tokens, mask), expected)
        unpadded = scope["loss_fn"](logits, tokens)
        torch.testing.assert_close(unpadded, entropy_weighted_loss(token_losses(logits, tokens)[0], blind))
