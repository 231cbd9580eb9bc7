"""Training a tuned lens: it learns, it is the same each time, and the model stays as it was."""

from __future__ import annotations

import signal

import pytest
import torch
from tiny_models import CONTEXT, cached_model, make_model, tiny_tokenizer

import tl_entropy as tle
from tl_entropy.analyses.lens.training import train_tuned_lens
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional import kl_divergence
from tl_entropy.lenses import objective, training
from tl_entropy.lenses.protocol import check_lens

pytestmark = pytest.mark.model

TEXTS = ["the cat sat on the mat, and the dog sat on the cat", "def f(x):\n    return x + 1", "and the dog and the cat", "x"]
QUICK = {"steps": 12, "tokens_per_step": 60, "learning_rate": 5e-3, "progress": False}


def dense_losses(model, texts, lens):
    """Mean KL over all tokens of all texts, one text at a time, from dense logits in double: [layer]."""
    adapter = tle.Adapter(model)
    readout, sites = adapter.readout, adapter.sites(("embed", "resid_post"))
    found = []
    for text in texts:
        start = [adapter.begin] if adapter.prepends_begin else []
        ids = torch.tensor([start + adapter.encode(text)])
        seen = adapter.activations(ids, torch.ones_like(ids), sites)

        def log_probs(rows):
            logits = readout.norm(rows).double() @ readout.unembedding.double()
            logits = readout.scale * (logits if readout.bias is None else logits + readout.bias)
            return logits if readout.softcap is None else readout.softcap * torch.tanh(logits / readout.softcap)

        rows = [seen[site][0, len(start) :] for site in sites]
        read = [log_probs(x if lens is None else lens(site, x)) for site, x in zip(sites, rows, strict=True)]
        found.append(torch.stack([kl_divergence(read[-1], q) for q in read[:-1]]))
    return torch.cat(found, 1).mean(1)


def test_it_learns_on_every_architecture_and_says_by_how_much(any_model):
    lens = train_tuned_lens(any_model, TEXTS, validation=TEXTS, **QUICK)
    before, after = lens.losses
    assert (after < 0.5 * before).all(), lens
    torch.testing.assert_close(before.double(), dense_losses(any_model, TEXTS, None), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(after.double(), dense_losses(any_model, TEXTS, lens), rtol=1e-3, atol=1e-4)
    check_lens(lens, tle.Adapter(any_model), tle.Adapter(any_model).sites(("embed", "resid_post")))


@pytest.mark.thinned
@pytest.mark.parametrize("compatible", [False, True])
def test_a_lens_of_raw_weights_fits_processed_ones_and_the_other_way_round(gpt2, compatible):
    kind = "bridge" if type(gpt2).__name__ == "TransformerBridge" else "hooked"
    lens = train_tuned_lens(cached_model("gpt2", kind, compatible), TEXTS, validation=TEXTS, **QUICK)
    other = cached_model("gpt2", kind, not compatible)
    check_lens(lens, tle.Adapter(other), ())
    torch.testing.assert_close(lens.losses[1].double(), dense_losses(other, TEXTS, lens), rtol=1e-3, atol=1e-4)


def test_same_seed_same_lens(gpt2):
    first, again, other = (train_tuned_lens(gpt2, TEXTS, **QUICK | {"tokens_per_step": 20, "seed": s}) for s in (3, 3, 4))
    assert torch.equal(first.weights, again.weights)
    assert torch.equal(first.biases, again.biases)
    assert not torch.equal(first.weights, other.weights)


def one_step(model, inputs, **options):
    """The gradient of the first step's loss in A and b."""
    adapter = model if isinstance(model, tle.Adapter) else tle.Adapter(model)
    translators = training._Translators(adapter, options.pop("batch_size", None))
    windows, _ = training._read(adapter, inputs, options)
    loss, n_rows = translators.gradient(windows)
    return loss, translators.weights.grad, translators.offsets.grad, n_rows


def test_padding_and_batch_size_change_nothing(any_model):
    together = one_step(any_model, TEXTS, batch_size=4)
    apart = one_step(any_model, TEXTS, batch_size=1)
    assert together[-1] == apart[-1] == sum(len(tle.Adapter(any_model).encode(text)) for text in TEXTS)
    for a, b in zip(together[:-1], apart[:-1], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4 * float(b.abs().max()))


@pytest.mark.thinned
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_tokens_with_their_mask_are_the_texts(gpt2, side):
    tokenizer = tiny_tokenizer()
    rows = [[0, *tokenizer(text)["input_ids"]] for text in TEXTS]
    longest = max(map(len, rows))
    pads = [[0] * (longest - len(row)) for row in rows]
    tokens = torch.tensor([pad + row if side == "left" else row + pad for row, pad in zip(rows, pads, strict=True)])
    real = [[1] * len(row) for row in rows]
    mask = torch.tensor([pad + ones if side == "left" else ones + pad for ones, pad in zip(real, pads, strict=True)])
    lens = train_tuned_lens(gpt2, (tokens, mask), **QUICK)
    assert torch.equal(lens.weights, train_tuned_lens(gpt2, TEXTS, **QUICK).weights)


def test_special_tokens_do_not_count_unless_asked_for(gpt2):
    bare = one_step(gpt2, torch.tensor([[0, 40, 41, 42]]))
    assert bare[-1] == 3
    assert one_step(gpt2, torch.tensor([[0, 40, 41, 42]]), include_special=True)[-1] == 4
    with pytest.raises(InputError, match="all their tokens are special tokens"):
        train_tuned_lens(gpt2, torch.tensor([0, 0]), **QUICK)


def test_first_gradient_is_that_of_the_definition(gpt2):
    adapter = tle.Adapter(gpt2)
    _, by_weights, by_biases, n_rows = one_step(gpt2, TEXTS[0])
    ids = torch.tensor([[0, *adapter.encode(TEXTS[0])]])
    sites = adapter.sites(("embed", "resid_post"))
    *inner, last = (value[0, 1:].double() for value in adapter.activations(ids, torch.ones_like(ids), sites).values())
    model = make_model("gpt2", "bridge" if type(gpt2).__name__ == "TransformerBridge" else "hooked", dtype=torch.float64)
    readout = tle.Adapter(model).readout
    for i, x in enumerate(inner):
        x = x - x.mean(-1, keepdim=True)
        weights, biases = torch.zeros(32, 32, dtype=torch.float64), torch.zeros(32, dtype=torch.float64)
        y = x + x @ weights.requires_grad_().T + biases.requires_grad_()
        bias = 0 if readout.bias is None else readout.bias
        logits = [model.ln_final(rows[None])[0] @ readout.unembedding + bias for rows in (last, y)]
        slopes = torch.autograd.grad(kl_divergence(*logits).mean(), (weights, biases))
        torch.testing.assert_close(by_weights[i].double(), slopes[0], rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(by_biases[i].double(), slopes[1], rtol=1e-3, atol=1e-5)
    assert n_rows == len(last)


def test_biases_count_in_sizes_of_the_residual_stream(gpt2):
    adapter = tle.Adapter(gpt2)
    translators = training._Translators(adapter, None)
    windows = training._read(adapter, TEXTS, {})[0]
    translators.start(windows)
    weights, biases = translators.finished()
    _, n_rows = translators.gradient(windows)
    plain = training._Translators(adapter, None)
    plain.weights, plain.offsets = weights, biases
    plain.gradient(windows)
    seen = adapter.activations(*padded(adapter), adapter.sites(("embed", "resid_post")))
    mask = padded(adapter)[1].bool()
    mask[:, 0] = False
    for i, states in enumerate(list(seen.values())[:-1]):
        states = states[mask] - states[mask].mean(-1, keepdim=True)
        size = states.square().mean().sqrt()
        torch.testing.assert_close(translators._sizes[i, 0], size, rtol=1e-4, atol=0)
        torch.testing.assert_close(translators.offsets.grad[i], plain.offsets.grad[i] * size, rtol=1e-3, atol=1e-5)
    assert n_rows == int(mask.sum())


def padded(adapter):
    rows = [torch.tensor([adapter.begin, *adapter.encode(text)]) for text in TEXTS]
    return (
        torch.nn.utils.rnn.pad_sequence(rows, batch_first=True),
        torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True),
    )


def test_the_start_already_helps_and_steps_help_more(any_model):
    started, trained = (
        train_tuned_lens(any_model, TEXTS, validation=TEXTS, **QUICK | {"steps": n, "learning_rate": rate})
        for n, rate in ((1, 1e-9), (30, 1e-2))
    )
    assert (started.losses[1] <= started.losses[0] + 1e-6).all()
    assert trained.losses[1].mean() < started.losses[1].mean()


def test_a_start_that_is_worse_than_nothing_is_not_taken(gpt2, monkeypatch):
    adapter = tle.Adapter(gpt2)
    solve, calls = training.Regression.solve, []

    def second_is_bad(self):
        calls.append(1)
        weights, biases = solve(self)
        return (-2 * torch.eye(32), biases) if len(calls) == 2 else (weights, biases)

    monkeypatch.setattr(training.Regression, "solve", second_is_bad)
    translators = training._Translators(adapter, None)
    translators.start(training._read(adapter, TEXTS, {})[0])
    assert [bool(weights.any()) for weights in translators.weights] == [True, False, True]
    assert [bool(offsets.any()) for offsets in translators.offsets] == [True, False, True]


def test_small_pieces_of_rows_change_nothing(gpt2, monkeypatch):
    whole = one_step(gpt2, TEXTS)
    monkeypatch.setattr(objective, "CELLS", 900)
    for a, b in zip(whole, one_step(gpt2, TEXTS), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_model_stays_as_it_was(gpt2):
    before = {name: value.clone() for name, value in gpt2.state_dict().items()}
    seen = []
    gpt2.train()
    try:
        with gpt2.hooks([("blocks.0.hook_resid_post", lambda value, hook: seen.append(value.requires_grad))]):
            train_tuned_lens(gpt2, TEXTS, **QUICK | {"steps": 2})
        assert all(module.training for module in gpt2.modules())
    finally:
        gpt2.eval()
    assert all(torch.equal(value, before[name]) for name, value in gpt2.state_dict().items())
    assert all(parameter.grad is None for parameter in gpt2.parameters())
    assert any(parameter.requires_grad for parameter in gpt2.parameters())
    assert seen
    assert not any(seen)
    assert torch.is_grad_enabled()


def test_it_works_where_gradients_are_switched_off(gpt2):
    with torch.no_grad():
        lens = train_tuned_lens(gpt2, TEXTS, **QUICK)
    assert torch.equal(lens.weights, train_tuned_lens(gpt2, TEXTS, **QUICK).weights)


def test_provenance_tells_the_recipe(gpt2):
    lens = train_tuned_lens(gpt2, TEXTS, weight_decay=0.1, window=16, **QUICK)
    settings, corpus = lens.provenance.settings, lens.provenance.corpus
    assert {key: settings[key] for key in ("steps", "tokens_per_step", "learning_rate", "weight_decay", "seed", "window")} == {
        "steps": 12, "tokens_per_step": 60, "learning_rate": 5e-3, "weight_decay": 0.1, "seed": 0, "window": 16,
    }  # fmt: skip
    assert len(settings["training_losses"]) == 3
    assert corpus["documents"] == 4
    assert corpus["tokens_trained"] >= 12 * 60 > corpus["tokens"] == sum(len(tle.Adapter(gpt2).encode(t)) for t in TEXTS)
    assert lens.losses is None
    assert lens.provenance.weights == tle.Adapter(gpt2).fingerprint
    assert f"trained on {corpus['tokens_trained']:,} tokens" in repr(lens)


def test_no_more_is_read_than_is_needed(gpt2):
    taken = []

    def texts():
        for text in TEXTS * 5:
            taken.append(text)
            yield text

    train_tuned_lens(gpt2, texts(), **QUICK | {"steps": 1, "tokens_per_step": 30})
    assert len(taken) < 8


def test_control_c_gives_what_was_trained(gpt2, monkeypatch):
    step, calls = training._Translators.gradient, []

    def interrupt_third(self, windows):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return step(self, windows)

    monkeypatch.setattr(training._Translators, "gradient", interrupt_third)
    with pytest.warns(UserWarning, match="interrupted after 2 of 12 steps"):
        lens = train_tuned_lens(gpt2, TEXTS, validation=TEXTS, **QUICK)
    assert lens.provenance.interrupted
    assert lens.provenance.settings["steps"] == 2
    assert lens.losses is None
    assert lens.weights.abs().max() > 0
    assert "interrupted" in repr(lens)


def test_what_is_not_finite_is_refused():
    model = make_model("gpt2")
    with torch.no_grad():
        next(p for p in model.parameters() if p.shape == (CONTEXT, 32))[20] = torch.nan  # behind what proofs read
    with pytest.raises(NonFiniteError, match=r"KL is .*nan.* nats by layer at step 0"):
        train_tuned_lens(model, " ".join(TEXTS), **QUICK)


def test_arguments_are_checked(gpt2):
    for wrong, match in (
        ({"steps": 0}, "steps must be an int of at least 1"),
        ({"tokens_per_step": 0}, "tokens_per_step must be"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number"),
        ({"weight_decay": -1.0}, "weight_decay must be a finite number of at least 0"),
        ({"window": 1}, "window must be at least 2"),
    ):
        with pytest.raises(InputError, match=match):
            train_tuned_lens(gpt2, TEXTS, **QUICK | wrong)
    with pytest.raises(InputTypeError, match="did you mean 'stride'"):
        train_tuned_lens(gpt2, TEXTS, **QUICK, strid=3)
    ids = torch.tensor([[0, 40, 41]])
    _, cache = gpt2.run_with_cache(ids)
    with pytest.raises(InputError, match="can't be trained on a cache"):
        train_tuned_lens(gpt2, (cache, ids), **QUICK)


def test_in_bfloat16():
    model = make_model("llama", dtype=torch.bfloat16)
    lens = train_tuned_lens(model, TEXTS, validation=TEXTS, **QUICK)
    assert lens.weights.dtype == torch.float32
    assert (lens.losses[1] < 0.8 * lens.losses[0]).all()
    check_lens(lens, tle.Adapter(model), ())


def test_rate():
    rates = [training._rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == pytest.approx(0.91)
    assert rates[-1] == pytest.approx(0.01)
    assert training._rate(0, 1) == 1
