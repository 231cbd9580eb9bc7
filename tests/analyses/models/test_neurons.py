"""Neurons at their means: every effect and every number of the weights against Hugging Face's modules in float64."""

from __future__ import annotations

import copy
import math
from functools import cache
from importlib.metadata import version

import pytest
import torch
from gallery import neuron_effects
from tiny_models import ALL_MODELS, ARCHITECTURES, cached_model, hf_model, kinds, tiny_tokenizer

import tl_entropy as tle
from tl_entropy.errors import InputError, ModelError
from tl_entropy.results.models.neurons import CHANGES

TEXTS = ["the cat sat on the mat, and the dog sat on the cat", "def f(x):\n    return x + 1\n", "the dog sat"]
PARTS = {  # final norm, last linear layer of an MLP, factor on the logits, factor on what the MLP adds
    "gpt2": ("transformer.ln_f", "transformer.h.{}.mlp.c_proj", 1.0, 1.0),
    "llama": ("model.norm", "model.layers.{}.mlp.down_proj", 1.0, 1.0),
    "neox": ("gpt_neox.final_layer_norm", "gpt_neox.layers.{}.mlp.dense_4h_to_h", 1.0, 1.0),
    "phi": ("model.final_layernorm", "model.layers.{}.mlp.fc2", 1.0, 1.0),
    "granite": ("model.norm", "model.layers.{}.mlp.down_proj", 1 / 8, 0.22),
    "cohere": ("model.norm", "model.layers.{}.mlp.down_proj", 0.0625, 1.0),
}
NO_NEURONS = {"gemma2"}  # a norm stands behind the MLP
RAW = ("gpt2", kinds()[-1], False)
OTHER_LOGITS = {"cohere"} if version("transformer-lens").startswith("3.") else set()  # than Hugging Face's
MEASURED = [
    row
    for row in ARCHITECTURES
    if row[0] not in NO_NEURONS | OTHER_LOGITS and (ALL_MODELS or row[:2] in (RAW[:2], ("llama", "bridge")))
]
QUIET = {"progress": False, "prepend_bos": False}


class Oracle:
    """A Hugging Face model in float64, its last residual stream, and its neurons."""

    def __init__(self, name):
        self.model = copy.deepcopy(hf_model(name)).double()
        norm, self.out, self.logit_scale, self.added = PARTS[name]
        self.norm = self.model.get_submodule(norm)
        self.centred = name in ("gpt2", "neox", "phi", "cohere")
        self.eps = getattr(self.norm, "eps", None) or self.norm.variance_epsilon
        self.bias = getattr(self.norm, "bias", None)
        head = self.model.get_output_embeddings()
        self.w_u, self.b_u = head.weight.T.detach(), head.bias

    def w_out(self, layer):
        weight = self.model.get_submodule(self.out.format(layer)).weight.detach()
        return self.added * (weight if "c_proj" in self.out else weight.T)

    def run(self, tokens, layer, neuron=None, value=None):
        """Activations [pos, neuron], last residual stream and logits of one row."""
        seen = {}

        def edit(module, given):
            post = given[0].clone()
            seen["post"] = post[0]
            if neuron is not None:
                post[..., neuron] = value
            return (post,)

        handles = [
            self.model.get_submodule(self.out.format(layer)).register_forward_pre_hook(edit),
            self.norm.register_forward_pre_hook(lambda module, given: seen.update(x=given[0][0])),
        ]
        with torch.no_grad():
            logits = self.model(tokens).logits[0]
        for handle in handles:
            handle.remove()
        return seen["post"].detach(), seen["x"].detach(), logits

    def scale(self, x):
        centred = x - x.mean(-1, keepdim=True) if self.centred else x
        return (centred.square().mean(-1, keepdim=True) + self.eps).rsqrt()

    def frozen(self, x, scale):
        centred = x - x.mean(-1, keepdim=True) if self.centred else x
        normed = centred * scale * self.norm.weight.detach() + (0 if self.bias is None else self.bias.detach())
        return self.logit_scale * (normed @ self.w_u + (0 if self.b_u is None else self.b_u.detach()))


@cache
def oracle(name):
    return Oracle(name)


def rows_of(logits, tokens, law):
    log_p = logits.log_softmax(-1)[:-1]
    entropy = -(log_p.exp() * log_p).sum(-1)
    loss = -log_p.gather(1, tokens[0, 1:, None])[:, 0]
    return torch.stack([entropy, loss, -(log_p.exp() * law.log()).sum(-1) - entropy], -1)


def truth(name, pairs, law, rows):
    """[document: [token, neuron, change]] by definition, with the means of all positions."""
    of, found = oracle(name), []
    direction = law.log() - law.log().mean()
    direction = direction / direction.norm()
    means = {layer: torch.cat([of.run(tokens, layer)[0] for tokens in rows]).mean(0) for layer in {a for a, _ in pairs}}
    for tokens in rows:
        changes = []
        for layer, neuron in pairs:
            value = means[layer][neuron]
            post, x, logits = of.run(tokens, layer)
            _, _, ablated = of.run(tokens, layer, neuron, value)
            moved = x + (value - post[:, neuron])[:, None] * of.w_out(layer)[neuron]
            direct = of.frozen(moved, of.scale(x))
            off = ablated + ((logits - ablated) @ direction)[:, None] * direction
            before, whole, straight, rest = (rows_of(each, tokens, law) for each in (logits, ablated, direct, off))
            parts = (whole - before, (straight - before)[:, :2], (rest - before)[:, :2])
            changes.append(torch.cat(parts, -1))
        found.append(torch.stack(changes, 1))
    return found


@pytest.mark.model
@pytest.mark.parametrize(("name", "kind", "compatible"), MEASURED)
def test_every_effect_is_that_of_the_definition(name, kind, compatible):
    model = cached_model(name, kind, compatible)
    rows = [torch.tensor([tiny_tokenizer()(text)["input_ids"]]) for text in TEXTS]
    counts = torch.bincount(torch.cat(rows, 1)[0], minlength=300).double()
    law = (counts + 0.5) / (counts + 0.5).sum()
    pairs = [(1, 4), (2, 0), (2, 9)]
    found = tle.neurons(model, TEXTS, only=pairs, placebos=0, **QUIET)
    assert found.names == ("1.4", "2.0", "2.9")
    assert found.roles == ("given",) * 3
    documents = truth(name, pairs, law, rows)
    whole = torch.cat(documents)
    assert (found.tokens, found.documents) == (len(whole), 3)
    assert float(whole.abs().mean()) > 1e-4
    for i, change in enumerate(CHANGES):
        mean, se = found.effect(change)
        expected = whole[..., i].mean(0)
        residual = torch.stack([part[..., i].sum(0) - len(part) * expected for part in documents])
        error = (residual.square().sum(0) * 3 / 2).sqrt() / len(whole)
        assert mean.tolist() == pytest.approx(expected.tolist(), abs=3e-6), change
        assert se.tolist() == pytest.approx(error.tolist(), abs=3e-6), change
        if change != "unigram_kl":
            assert found.effect(f"abs_{change}")[0].tolist() == pytest.approx(whole[..., i].abs().mean(0).tolist(), abs=3e-6)
    for by, rest in (("norm", 4), ("unigram", 6)):
        share, se = found.mediated("loss", by=by)
        top, bottom = whole[..., rest].abs().sum(0), whole[..., 1].abs().sum(0)
        assert share.tolist() == pytest.approx((1 - top / bottom).tolist(), abs=1e-2)
        residual = torch.stack([part[..., rest].abs().sum(0) - top / bottom * part[..., 1].abs().sum(0) for part in documents])
        assert se.tolist() == pytest.approx(((residual.square().sum(0) * 3 / 2).sqrt() / bottom).tolist(), abs=1e-2)


@pytest.mark.model
@pytest.mark.parametrize(("name", "kind", "compatible"), MEASURED)
def test_the_numbers_of_the_weights_are_those_of_the_dense_matrices(name, kind, compatible):
    of = oracle(name)
    found = tle.neurons(
        cached_model(name, kind, compatible), TEXTS, layers=2, candidates=2, placebos=3, null_directions=3,
        frequencies=torch.arange(300.0), smoothing=1.0, **QUIET,
    )  # fmt: skip
    w, a = of.w_out(2), of.norm.weight.detach()[:, None] * (of.w_u - of.w_u.mean(1, keepdim=True))
    if of.centred:
        w, a = w - w.mean(1, keepdim=True), a - a.mean(0)
    u, _, _ = torch.linalg.svd(a, full_matrices=True)
    null = u[:, -4:-1] if of.centred else u[:, -3:]  # of a centred matrix the last is the constant vector
    direction = (torch.arange(300.0).double() + 1).log()
    direction = direction - direction.mean()
    logits = w @ a
    columns = {
        "norm": w.norm(dim=1),
        "logit_var": (logits / w.norm(dim=1, keepdim=True) / a.norm(dim=0)).var(1),
        "null_share": (w @ null).norm(dim=1) / w.norm(dim=1),
        "unigram_cosine": logits @ direction / logits.norm(dim=1) / direction.norm(),
    }
    frame = found.screening()
    assert frame["neuron"].tolist() == list(range(len(w)))
    for column, expected in columns.items():
        assert frame[column].tolist() == pytest.approx(expected.tolist(), rel=2e-3, abs=1e-4), column
    entropy = frame["null_share"].nlargest(2).index.tolist()
    frequency = frame["unigram_cosine"].abs().drop(entropy).nlargest(2).index.tolist()
    chosen = dict(zip(found.neurons[:, 1].tolist(), found.roles, strict=True))
    assert {i for i, role in chosen.items() if role == "entropy"} == set(entropy)
    assert {i for i, role in chosen.items() if role == "frequency"} == set(frequency)
    assert list(chosen.values()).count("placebo") == 3


@pytest.mark.model
def test_any_batches_and_padding_give_the_same():
    model = cached_model(*RAW)
    one, other = (
        tle.neurons(model, TEXTS, layers=[1, 2], candidates=1, placebos=1, batch_size=size, **QUIET) for size in (1, 3)
    )
    assert one.names == other.names
    assert one.products.flatten().tolist() == pytest.approx(other.products.flatten().tolist(), abs=2e-4)
    assert {layer for layer, _ in one.neurons.tolist()} == {1, 2}


@pytest.mark.model
def test_a_shared_corpus_merges_to_the_whole_and_states_come_back():
    from tl_entropy.analyses.models.neuron_sums import NeuronAccumulator, Screen

    model, law = cached_model(*RAW), torch.ones(300, dtype=torch.float64)
    means = tle.site_means(model, TEXTS, "post.2", **QUIET)
    screen = Screen({2: [3, 5]}, ("given", "given"), torch.tensor([[2, 3], [2, 5]]), torch.zeros(2, 4).double(), 1)

    def read(part):
        sums = NeuronAccumulator(model, screen, means, law)
        tle.stream(model, TEXTS, [sums], count="predicted", documents=part, batch_size=1, **QUIET)
        return sums

    whole, first, second = read(range(3)), read(range(2)), read(range(2, 3))
    again = NeuronAccumulator(model, screen, means, law)
    again.load_state_dict(first.state_dict())
    again.merge(second)
    expected = whole.compute()
    assert torch.allclose(again.compute().products, expected.products, rtol=0, atol=1e-12)
    assert torch.allclose(again.compute().baseline, expected.baseline, rtol=0, atol=1e-12)


@pytest.mark.model
def test_a_frequency_neuron_made_by_hand_is_found_and_goes_along_the_unigram_direction():
    """In GPT-2 a neuron is made to write what W_U turns into the log frequencies, and another what it does not see."""
    source = copy.deepcopy(cached_model("gpt2", "bridge")) if "bridge" in kinds() else copy.deepcopy(cached_model(*RAW))
    mlp = source.blocks[2].mlp
    with torch.no_grad():
        gain = source.ln_final.weight if hasattr(source.ln_final, "weight") else source.ln_final.w
        unseen = torch.linspace(-1, 1, 32)
        blind = gain * unseen / (gain * unseen).norm()
        source.W_U.data.sub_(blind[:, None] * (blind @ source.W_U))
        a = gain[:, None] * (source.W_U - source.W_U.mean(1, keepdim=True))
        a = a - a.mean(0)
        along = torch.randn(32, generator=torch.Generator().manual_seed(0))
        along -= along.mean() + unseen * (along @ unseen) / unseen.square().sum()
        law = (along @ a).exp()
        weights = mlp.W_out.data if len(mlp.W_out) == 128 else mlp.W_out.data.T
        weights[7], weights[8] = along / along.norm(), 4 * unseen / unseen.norm()
    found = tle.neurons(source, TEXTS, candidates=1, placebos=4, frequencies=law, null_directions=1, **QUIET)
    frame = found.to_pandas().set_index("role")
    assert frame.loc["entropy", "neuron"] == 8
    assert frame.loc["frequency", "neuron"] == 7
    assert frame.loc["entropy", "null_share"] > 0.99
    assert frame.loc["entropy", "norm_share_entropy"] > 0.95  # by the norm alone
    assert abs(frame.loc["entropy", "direct_entropy"]) < 0.02 * frame.loc["entropy", "abs_entropy"]
    assert frame.loc["frequency", "unigram_share_loss"] > 0.7  # the rest is the norm
    assert frame.loc["frequency", "unigram_cosine"] > 0.98  # smoothing bends it


@pytest.mark.model
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": 7}, "layer 7 does not exist"),
        ({"only": [(2, 999)]}, "only: neuron 2.999 does not exist; layer 2 has neurons 0 to"),
        ({"placebos": 1000}, "placebos: layer 2 has "),
        ({"candidates": 0}, "candidates must be"),
        ({"null_directions": 32}, "null_directions must be"),
        ({"smoothing": 0.0}, "smoothing must be above 0"),
        ({"frequencies": [1.0]}, "frequencies must be"),
        ({"inputs": iter(TEXTS)}, "read several times"),
    ],
)
def test_what_is_refused(change, words):
    given = {"inputs": TEXTS, **change}
    with pytest.raises(InputError, match=words):
        tle.neurons(cached_model(*RAW), given.pop("inputs"), **given, **QUIET)


@pytest.mark.model
@pytest.mark.skipif("bridge" not in kinds(), reason="these are TransformerBridge's")
def test_models_whose_neurons_are_no_part_of_the_stream_are_refused():
    with pytest.raises(ModelError, match=r"neurons of layer 2 are not contributions .* a norm"):
        tle.neurons(cached_model("gemma2", "bridge"), TEXTS, **QUIET)
    found = tle.neurons(cached_model("laguna", "bridge"), TEXTS, candidates=1, placebos=1, **QUIET)
    assert {layer for layer, _ in found.neurons.tolist()} == {0}  # the last layer that is no mixture of experts
    with pytest.raises(InputError, match=r"no post at layer 2: its MLP is a mixture of experts"):
        tle.neurons(cached_model("laguna", "bridge"), TEXTS, layers=-1, **QUIET)
    with pytest.raises(InputError, match="it has no MLP"):
        tle.neurons(cached_model("mamba", "bridge"), TEXTS, **QUIET)


@pytest.mark.parametrize("of", ["entropy", "loss", "abs_entropy", "abs_loss"])
def test_p_values_are_ranks_among_the_placebos_of_the_layer(of):
    found = neuron_effects(3)  # all of one layer
    size, roles = found.effect(of)[0].abs().tolist(), found.roles
    others = [x for x, role in zip(size, roles, strict=True) if role == "placebo"]
    for x, role, p in zip(size, roles, found.p_values(of).tolist(), strict=True):
        if role == "placebo":
            assert math.isnan(p)
        else:
            assert p == pytest.approx((1 + sum(other >= x for other in others)) / (1 + len(others)))
    with pytest.raises(InputError, match="abs_loss"):
        found.p_values("direct_loss")
