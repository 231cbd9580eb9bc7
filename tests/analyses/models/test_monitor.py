"""A monitored training: the numbers are those of the weights at each step, and the training does not notice."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from tiny_models import VOCAB, cached_model, kinds, make_model
from torch.optim.optimizer import register_optimizer_step_post_hook

import tl_entropy as tle
from tl_entropy.analyses.models.monitor import EntropyMonitor
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.results.models.monitor import EntropyHistory

pytestmark = pytest.mark.model
TEXTS = ["the cat sat on the mat", "def f(x):\n    return x + 1", "the", "dog and cat and dog and the mat sat"]
KINDS = [(kind, compatible) for kind in kinds() for compatible in (False, True)]


def step_of(model, optimizer):
    """One step of a training, with whatever is random in it."""
    tokens = torch.randint(1, VOCAB, (3, 12))
    loss = model(tokens, return_type="loss")
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def adam(model):
    return torch.optim.Adam(model.parameters(), lr=5e-3)


def own_loss(model, texts):
    """Mean loss over all tokens but the first of each text, by the model itself: [text] sums, [text] counts."""
    sums, counts = [], []
    with torch.no_grad():
        for text in texts:
            losses = model(model.to_tokens(text), return_type="loss", loss_per_token=True)[0, 1:].double()
            sums.append(losses.sum())
            counts.append(len(losses))
    return torch.stack(sums), torch.tensor(counts, dtype=torch.float64)


@pytest.mark.thinned
@pytest.mark.parametrize(("kind", "compatible"), KINDS)
def test_every_number_is_that_of_the_weights_at_its_step(kind, compatible):
    model = make_model("gpt2", kind, compatible=compatible)
    optimizer, monitor = adam(model), EntropyMonitor(model, TEXTS, every=2)
    torch.manual_seed(0)
    for step in range(5):
        found = monitor(step)
        assert (found is None) == bool(step % 2)
        if found is not None:
            model.eval()
            profile = tle.lens_entropy(model, TEXTS, progress=False).mean_profile()
            full = tle.lens_entropy(model, TEXTS, surprisal=True, progress=False).mean_profile(of="surprisal").iloc[-1]
            sums, counts = own_loss(model, TEXTS)
            model.train()
            np.testing.assert_allclose(found.entropy[0].numpy(), profile["mean"], atol=1e-6)
            np.testing.assert_allclose(found.entropy_se[0].numpy(), profile["se"], atol=1e-6)
            assert [found.tokens, found.documents] == profile[["tokens", "documents"]].iloc[0].tolist()
            assert np.isclose(found.loss.item(), full["mean"], atol=1e-6)
            assert np.isclose(found.loss_se.item(), full["se"], atol=1e-6)
            assert found.loss_tokens == full["tokens"] == counts.sum()
            assert np.isclose(found.loss.item(), (sums.sum() / counts.sum()).item(), atol=2e-5)
        step_of(model, optimizer)
    history = monitor.history
    assert history.steps.tolist() == [0, 2, 4]
    assert (history.entropy[1:] - history.entropy[:-1]).abs().min() > 1e-6  # the weights have changed, and it shows
    assert (history.loss.diff().abs() > 1e-4).all()
    assert (history.entropy.dtype, history.loss.dtype, history.unit) == (torch.float64, torch.float64, "nats")
    assert history.provenance.weights == found.provenance.weights != tle.Adapter(model).fingerprint
    assert history.provenance.settings["sites"] == tuple(map(str, history.sites))


@pytest.mark.parametrize("kind", kinds())
def test_weights_may_be_replaced_as_well(kind):
    """Not only changed in place, which a view of the old ones would follow."""
    model = make_model("gpt2", kind)
    monitor = EntropyMonitor(model, TEXTS)
    monitor(0)
    with torch.no_grad():
        if kind == "hooked":
            model.unembed.W_U = torch.nn.Parameter(0.5 * model.unembed.W_U)
            model.unembed.b_U = torch.nn.Parameter(torch.randn(VOCAB, generator=torch.Generator().manual_seed(2)))
        else:
            model.original_model.lm_head.weight = torch.nn.Parameter(0.5 * model.original_model.lm_head.weight)
    found = monitor(1)
    profile = tle.lens_entropy(model, TEXTS, progress=False).mean_profile()
    np.testing.assert_allclose(found.entropy[0].numpy(), profile["mean"], atol=1e-6)
    sums, counts = own_loss(model, TEXTS)
    assert np.isclose(found.loss.item(), (sums.sum() / counts.sum()).item(), atol=2e-5)
    assert (monitor.history.entropy.diff(dim=0).abs() > 0.01).all()


@pytest.mark.parametrize("kind", kinds())
def test_a_training_runs_the_same_with_and_without(kind):
    found = []
    for watched in (False, True):
        model = make_model("gpt2", kind)
        model.train()
        monitor = EntropyMonitor(model, TEXTS) if watched else lambda step: None
        optimizer = adam(model)
        torch.manual_seed(0)  # of dropout, too
        for step in range(3):
            monitor(step)
            step_of(model, optimizer)
        found.append([parameter.detach().clone() for parameter in model.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def hooks(model):
    return sum(len(point.fwd_hooks) + len(point._forward_hooks) for point in model.hook_dict.values())


@pytest.mark.filterwarnings("ignore:hooks that somebody has left on this model")
@pytest.mark.parametrize("kind", kinds())
def test_the_model_is_left_as_it_was_found(kind):
    model = make_model("gpt2", kind)
    seen = []
    model.hook_dict["blocks.1.hook_resid_post"].add_hook(lambda activation, hook: seen.append(activation.requires_grad))
    monitor = EntropyMonitor(model, TEXTS)
    model.train()
    model.blocks[1].eval()
    model(model.to_tokens(TEXTS[0]), return_type="loss").backward()
    roots = [model, getattr(model, "original_model", model)]
    modes = [module.training for root in roots for module in root.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    assert any(gradient is not None for gradient in gradients)
    # Python's own generator is left alone, too, but beartype, which checks annotations in these tests, draws from it.
    state, numpy_state, count = torch.get_rng_state(), np.random.get_state()[1].tolist(), hooks(model)  # noqa: NPY002
    with torch.enable_grad():
        monitor(0)
        assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002
    assert [module.training for root in roots for module in root.modules()] == modes
    assert hooks(model) == count
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert parameter.requires_grad
        assert (parameter.grad is None) if gradient is None else torch.equal(parameter.grad, gradient)
    assert seen[0] is True


def test_the_output_is_measured_whatever_is_asked_for(gpt2):
    monitor = EntropyMonitor(gpt2, TEXTS, sites=("attn_out",), layers=[0])
    found = monitor(0)
    assert [str(site) for site in found.sites] == ["attn_out.0", "resid_post.2"]
    with torch.no_grad():
        own = [gpt2(gpt2.to_tokens(text))[0, 1:].double().log_softmax(-1) for text in TEXTS]
    entropies = torch.cat([-(log_p.exp() * log_p).sum(-1) for log_p in own])
    assert np.isclose(found.output.item(), entropies.mean().item(), atol=2e-5)


def test_windows_batches_and_precision(gpt2):
    text = [" ".join(TEXTS), TEXTS[1]]
    options = {"window": 12, "stride": 6, "prepend_bos": True}
    whole = EntropyMonitor(gpt2, text, **options)(0)
    same = tle.lens_entropy(gpt2, text, surprisal=True, progress=False, **options)
    np.testing.assert_allclose(whole.entropy[0].numpy(), same.mean_profile()["mean"], atol=1e-6)
    np.testing.assert_allclose(whole.loss.item(), same.mean_profile(of="surprisal")["mean"].iloc[-1], atol=1e-6)
    assert whole.provenance.settings["window"] == 12
    one = EntropyMonitor(gpt2, text, batch_size=1, **options)(0)
    torch.testing.assert_close(one.entropy, whole.entropy, atol=1e-6, rtol=0)
    torch.testing.assert_close(one.loss, whole.loss, atol=1e-6, rtol=0)
    half = EntropyMonitor(gpt2, text, precision="bfloat16", **options)(0)
    assert 0 < (half.entropy - whole.entropy).abs().max() < 0.05
    assert half.provenance.settings["precision"] == "bfloat16"


def test_one_document_and_single_tokens(gpt2):
    alone = EntropyMonitor(gpt2, TEXTS[0])(0)
    assert alone.documents == 1
    assert alone.entropy_se.isnan().all()
    assert alone.loss_se.isnan().all()
    tokens = EntropyMonitor(gpt2, [torch.tensor([5]), torch.tensor([6])])(0)
    assert (tokens.tokens, tokens.loss_tokens) == (2, 0)
    assert math.isnan(tokens.loss)


@pytest.mark.parametrize("kind", kinds())
def test_as_a_hook_on_the_optimizer(kind):
    """For trainings without a loop of one's own: TransformerLens's where there is one."""
    model = make_model("gpt2", kind)
    rows = [{"tokens": row} for row in torch.randint(1, VOCAB, (8, 10), generator=torch.Generator().manual_seed(1))]
    monitor, counter = EntropyMonitor(model, TEXTS, every=2), itertools.count(1)
    handle = register_optimizer_step_post_hook(lambda *_: monitor(next(counter)))
    try:
        if "hooked" in kinds():
            from transformer_lens.train import HookedTransformerTrainConfig, train

            train(model, HookedTransformerTrainConfig(num_epochs=2, batch_size=4, device="cpu", print_every=None), rows)
        else:
            optimizer = adam(model)
            for _ in range(4):
                step_of(model, optimizer)
    finally:
        handle.remove()
    assert monitor.history.steps.tolist() == [2, 4]
    profile = tle.lens_entropy(model, TEXTS, progress=False).mean_profile()
    np.testing.assert_allclose(monitor.history.entropy[-1].numpy(), profile["mean"], atol=1e-6)
    assert monitor.history.provenance.weights == tle.Adapter(model).fingerprint


def test_steps_rise(gpt2):
    monitor = EntropyMonitor(gpt2, TEXTS[:1], every=3)
    with pytest.raises(InputError, match="nothing was measured yet"):
        _ = monitor.history
    assert monitor(1) is None
    assert isinstance(monitor(np.int64(3)), EntropyHistory)
    for step in (3, 2):
        with pytest.raises(InputError, match="step must be higher than 3"):
            monitor(step)
    with pytest.raises(InputTypeError, match="step must be an int"):
        monitor(4.0)
    assert monitor.history.steps.tolist() == [3]


def test_texts_that_change_are_refused(gpt2):
    texts = list(TEXTS)
    monitor = EntropyMonitor(gpt2, texts)
    monitor(0)
    texts.append("the dog")
    with pytest.raises(InputError, match=r"tokens is .* at step 0 and .* at step 1"):
        monitor(1)
    texts.pop()
    texts[0] = texts[0].replace("cat", "dog")  # as many tokens as before
    with pytest.raises(InputError, match=r"corpus is .* at step 0 and .* at step 1"):
        monitor(1)
    texts[:] = TEXTS[::-1]
    monitor(1)
    assert monitor.history.steps.tolist() == [0, 1], "means over the same texts, in whatever order"


class Interrupted:
    """Texts that Ctrl-C ends the second time they are read, after one text."""

    def __init__(self):
        self.rounds = 0

    def __iter__(self):
        self.rounds += 1
        yield TEXTS[0]
        if self.rounds == self.at:
            raise KeyboardInterrupt
        yield from TEXTS[1:]

    at = -1


def test_ctrl_c_ends_the_training_and_leaves_the_history_whole(gpt2):
    texts = Interrupted()
    monitor = EntropyMonitor(gpt2, texts, batch_size=1)
    monitor(0)
    texts.at = texts.rounds + 1
    with pytest.raises(KeyboardInterrupt):
        monitor(1)
    assert monitor.history.steps.tolist() == [0]
    monitor(1)
    assert monitor.history.steps.tolist() == [0, 1]


@pytest.mark.parametrize("kind", kinds())
def test_a_training_that_diverged_is_an_error(kind):
    model = make_model("gpt2", kind)
    monitor = EntropyMonitor(model, TEXTS)
    monitor(0)
    weight = next(p for p in model.blocks[1].mlp.parameters() if p.ndim == 2)
    with torch.no_grad():
        before = weight.clone()
        weight.mul_(math.inf)
    with pytest.raises(NonFiniteError, match="check the weights and the dtype"):
        monitor(1)
    with torch.no_grad():
        weight.copy_(before)
    monitor(1)
    assert monitor.history.steps.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ((text for text in TEXTS), {}, InputError, "texts must be readable again.*pass a list"),
        ([iter(TEXTS)], {}, InputError, "texts must be readable again"),
        (TEXTS, {"every": 0}, InputError, "every must be an int of at least 1"),
        (TEXTS, {"batch_size": 0}, InputError, "batch_size"),
        (TEXTS, {"precision": "int8"}, InputError, "precision must be one of"),
        (TEXTS, {"sites": "pattern"}, InputError, "head axis"),
        (TEXTS, {"sites": "nowhere"}, InputError, "sites must be one of"),
        (TEXTS, {"strid": 3}, InputTypeError, "did you mean 'stride'"),
        (TEXTS, {"temperature": 1.0}, InputTypeError, "'temperature' is not an option"),
    ],
)
def test_what_it_refuses(texts, options, error, message):
    with pytest.raises(error, match=message):
        EntropyMonitor(cached_model("gpt2", kinds()[0]), texts, **options)


def test_what_else_it_refuses(gpt2):
    tokens = gpt2.to_tokens(TEXTS[0])
    with torch.no_grad():
        _, cache = gpt2.run_with_cache(tokens)
    with pytest.raises(InputError, match="a cache holds the activations of old weights"):
        EntropyMonitor(gpt2, (cache, tokens))
    with pytest.raises(InputTypeError, match="TransformerLens model"):
        EntropyMonitor(torch.nn.Linear(2, 2), TEXTS)
