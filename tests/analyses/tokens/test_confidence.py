"""Confidence and unigram distance of every token at every site, against all logits in float64."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError

TEXTS = ["the cat sat on the mat", "def f(x):\n    return x + 1\n", "the dog sat"]
QUIET = {"progress": False}


def dense(model, tokens, site):
    """Log-probabilities [pos, vocab] in float64 of a site's states of one document, through the model's own norm."""
    adapter = tle.Adapter(model)
    readout, found = adapter.readout, {}
    tle.stream(model, tokens, [_States(adapter.sites(site), found)], **QUIET)
    hidden = readout.norm(torch.cat(found["states"])).double()
    logits = readout.scale * (hidden @ readout.unembedding.double() + (0 if readout.bias is None else readout.bias.double()))
    if readout.softcap is not None:
        logits = readout.softcap * (logits / readout.softcap).tanh()
    return logits.log_softmax(-1)


class _States:
    """The states of a site at all tokens read."""

    def __init__(self, sites, found):
        self.sites, self._found = sites, found

    def update(self, batch, activations):
        self._found.setdefault("states", []).append(batch.rows(activations[self.sites[0]]))

    def merge(self, other):
        raise NotImplementedError

    def compute(self):
        return None


def expected_confidence(log_p, token, k):
    p, top = log_p.exp(), log_p.topk(k).values
    mean = (p * log_p.clamp(min=-1e6)).sum(-1)
    deviation = (p * (log_p.clamp(min=-1e6) - mean[:, None]) ** 2).sum(-1).sqrt()
    own = log_p.gather(1, token[:, None])[:, 0]
    z = (own - mean) / deviation
    uniform = -log_p.mean(-1) - math.log(log_p.shape[1])
    kurtosis = torch.from_numpy(stats.kurtosis(log_p.numpy(), axis=1))
    return torch.stack([uniform, top[:, 0].exp() - top[:, 1].exp(), -top.mean(-1), top.exp().sum(-1), z, kurtosis], -1)


def test_every_quantity_is_that_of_all_logits(any_model):
    tokens = torch.arange(3, 15)
    found = tle.confidence(any_model, tokens, sites=("embed", "resid_post"), top_k=5, prepend_bos=False, **QUIET)
    distance = tle.unigram_distance(any_model, tokens, prepend_bos=False, **QUIET)
    counts = torch.zeros(any_model.cfg.d_vocab, dtype=torch.float64)
    counts[tokens] = 1
    f = (counts + 0.5) / (counts + 0.5).sum()
    for i, site in enumerate(found.sites):
        log_p = dense(any_model, tokens, site)[:-1].cpu()
        expected = expected_confidence(log_p, tokens[1:], 5)
        torch.testing.assert_close(found.values[:, i, :4].double(), expected[:, :4], atol=1e-4, rtol=1e-5)
        torch.testing.assert_close(found.values[:, i, 4].double(), expected[:, 4], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(found.values[:, i, 5].double(), expected[:, 5], atol=1e-4, rtol=1e-5)
        kl = (log_p.exp() * (log_p - f.log())).sum(-1)
        torch.testing.assert_close(distance.values[:, i, 0].double(), kl, atol=1e-4, rtol=1e-5)
        rank = torch.where(counts[log_p.argmax(-1)] > 0, len(tokens) - 1, len(counts) - 1)
        assert torch.equal(distance.values[:, i, 1].long(), rank)
    assert found.token.tolist() == tokens[1:].tolist()
    assert found.measured == ("self_certainty", "margin", "top_k_confidence", "top_k_mass", "z", "kurtosis")


@pytest.fixture(scope="module")
def model():
    return cached_model("gpt2", kinds()[0])


def test_z_is_that_of_token_surprisal(model):
    surprisal = tle.token_surprisal(model, TEXTS, **QUIET)
    found = tle.confidence(model, TEXTS, **QUIET)
    expected = (surprisal.entropy - surprisal.surprisal) / surprisal.varentropy.sqrt()
    torch.testing.assert_close(found.quantities()["z"][:, 0], expected.float(), atol=1e-5, rtol=1e-5)
    assert (found.position.tolist(), found.tokens()) == (surprisal.position.tolist(), surprisal.tokens())
    assert found.sites == tle.Adapter(model).output[:1]


def test_a_prediction_that_knows_nothing(model):
    kind = tle.ConfidenceAccumulator(model)
    vocabulary = model.cfg.d_vocab
    nothing = {
        "top_log_probs": torch.full((1, 1, 20), -math.log(vocabulary)), "self_certainty": torch.zeros(1, 1),
        "surprisal": torch.full((1, 1), math.log(vocabulary)), "entropy": torch.full((1, 1, 1), math.log(vocabulary)),
        "varentropy": torch.zeros(1, 1), "kurtosis": torch.full((1, 1), math.nan),
    }  # fmt: skip
    values = [value.item() for value in kind._values(nothing)]
    assert values == pytest.approx([0, 0, math.log(vocabulary), 20 / vocabulary, 0, math.nan], nan_ok=True)


@pytest.mark.parametrize("function", [tle.confidence, tle.unigram_distance])
def test_a_summary_has_the_means_and_errors_of_every_token(model, function):
    whole = function(model, TEXTS, sites="resid_post", **QUIET)
    means = function(model, TEXTS, sites="resid_post", keep="summary", batch_size=1, **QUIET)
    assert (means.tokens, means.documents) == (whole.n_tokens, 3)
    for unit in ("nats", "bits"):
        one, other = whole.to(unit).mean_profile(), means.to(unit).mean_profile()
        for name in ("mean", "se"):
            assert one[name].tolist() == pytest.approx(other[name].tolist(), rel=1e-5, abs=1e-6)
        assert one.drop(columns=["mean", "se"]).equals(other.drop(columns=["mean", "se"]))


def test_frequencies_are_counted_in_all_texts_or_given(model):
    counted = tle.unigram_distance(model, TEXTS, positions=[2], **QUIET)
    tokens = [torch.tensor(tle.Adapter(model).encode(text)) for text in TEXTS]
    counts = torch.bincount(torch.cat(tokens), minlength=model.cfg.d_vocab)
    for given, smoothing in ((counts, 0.5), (counts.numpy(), 0.5), (counts.tolist(), 0.5), (2 * counts, 1.0)):
        found = tle.unigram_distance(model, TEXTS, frequencies=given, smoothing=smoothing, positions=[2], **QUIET)
        torch.testing.assert_close(found.values, counted.values)
    flat = tle.unigram_distance(model, TEXTS, frequencies=torch.ones(model.cfg.d_vocab), smoothing=0, **QUIET)
    entropy = tle.lens_entropy(model, TEXTS, **QUIET)
    expected = math.log(model.cfg.d_vocab) - entropy.entropy[:, :, 0]
    kept = entropy.position < torch.tensor([len(tokens[d]) - 1 for d in entropy.document.tolist()])
    shown = flat.position > 0
    torch.testing.assert_close(flat.values[shown][:, :, 0], expected[kept], atol=1e-4, rtol=1e-4)


def test_over_the_tokenizers_tokens_alone(model):
    found = tle.confidence(model, TEXTS, vocabulary="tokenizer", top_k=291, **QUIET)
    torch.testing.assert_close(found.quantities()["top_k_mass"], torch.ones(found.n_tokens, 1))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: tle.confidence(m, TEXTS, top_k=1, **QUIET), InputError, "top_k must be"),
        (lambda m: tle.confidence(m, TEXTS, top_k=10**6, **QUIET), InputError, "top_k must be"),
        (lambda m: tle.confidence(m, TEXTS, keep="sums", **QUIET), InputError, "keep must be"),
        (lambda m: tle.unigram_distance(m, iter(TEXTS), **QUIET), InputError, "a generator can be read once"),
        (lambda m: tle.unigram_distance(m, TEXTS, frequencies=[1, 2], **QUIET), InputError, "one for each token"),
        (lambda m: tle.unigram_distance(m, TEXTS, frequencies="the", **QUIET), InputTypeError, "frequencies must be numbers"),
        (
            lambda m: tle.unigram_distance(m, TEXTS, frequencies=-torch.ones(m.cfg.d_vocab), **QUIET),
            InputError,
            "finite and from 0",
        ),
        (lambda m: tle.unigram_distance(m, TEXTS, smoothing=0.0, **QUIET), InputError, "smoothing must be above 0"),
        (lambda m: tle.unigram_distance(m, TEXTS, smoothing=-1.0, **QUIET), InputError, "smoothing must be a finite number"),
    ],
)
def test_bad_arguments_are_refused(model, call, error, message):
    with pytest.raises(error, match=message):
        call(model)


def test_parts_with_other_frequencies_are_not_merged(model):
    one, other = (tle.UnigramAccumulator(model, torch.arange(model.cfg.d_vocab) + i) for i in (0, 1))
    with pytest.raises(InputError, match="counts"):
        one.merge(other)
