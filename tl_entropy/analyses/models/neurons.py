r"""Entropy neurons and frequency neurons: which of a layer's neurons set how sure the output is, and by which way.

Some neurons of the last layers hardly move any logit against the others and are large all the same: they write where the
unembedding does not look. What they do is to the scale of the final norm, and so to the entropy of the output; that is how a
model tunes its confidence. Others move the output to or from the frequencies of tokens.

Candidates are found by their weights (``neuron_weights.py``): those with the largest share in the null space of the
unembedding, and those whose logits are most along the unigram direction. Each is then set to its mean, and so are other neurons
of its layer, drawn at random: what these do is what any neuron does (``neuron_sums.py``).

Deviations from the source, whose code was looked at: it ablates all neurons of the last layer on a sample of texts; its null
space counts the direction that LayerNorm takes out as one of the k; it leaves the first tokens of a text out; its shares have
no errors. Earlier layers are not in it.

Refused: models whose final norm is not linear up to a scale, and layers whose neurons are no part of the residual stream (a
norm behind the MLP, mixtures of experts); inputs that can be read only once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Unpack, cast

import torch
from torch import Tensor

from tl_entropy.analyses.means import site_means
from tl_entropy.analyses.measuring import measure
from tl_entropy.analyses.models.neuron_sums import NeuronAccumulator, Screen
from tl_entropy.analyses.models.neuron_weights import unigram_direction, weight_numbers
from tl_entropy.analyses.tokens.unigram import SMOOTHING, checked_frequencies, counted_tokens
from tl_entropy.capture.ablation import read_pairs
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.caches import split_cache
from tl_entropy.capture.given import adapter_of
from tl_entropy.capture.inputs import repeatable
from tl_entropy.capture.options import CorpusOptions, EditOptions, check_options
from tl_entropy.errors import InputError, check_int, check_number
from tl_entropy.results.models.neurons import WEIGHTS, NeuronEffects
from tl_entropy.sites import Layers, Site, layers_at
from tl_entropy.torch_state import steady


@steady
def neurons(
    model: Any,
    inputs: Any,
    *,
    layers: Layers | None = None,
    only: Iterable[tuple[int, int]] | Tensor | None = None,
    candidates: int = 5,
    placebos: int = 10,
    null_directions: int | None = None,
    frequencies: Any = None,
    smoothing: float = SMOOTHING,
    positions: int | slice | Sequence[int] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool = True,
    **options: Unpack[EditOptions],
) -> NeuronEffects:
    r"""What changes in the entropy and the loss of the output with single neurons at their means, and by which way.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files or data sets that can be read again: the means take a pass of their own.
        layers: blocks whose neurons are screened; None is the last one that has any.
        only: pairs of a layer and a neuron to ablate, or an array of them, in place of candidates by their weights.
        candidates: how many of each layer's neurons to ablate with the largest null_share ("entropy"), and how many with the
            largest |unigram_cosine| ("frequency").
        placebos: how many others of each layer to ablate beside them, drawn at random; no p-value is below
            1 / (1 + placebos).
        null_directions: how many of the smallest singular directions of the unembedding are its null space; None is a
            hundredth of d_model.
        frequencies: [d_vocab], how often each token occurs; None counts the inputs, without the model.
        smoothing: what is added to every count.
        positions: positions of the tokens predicted that count; None is all.
        batch_size: windows a batch; None takes as many as fit in 4096 tokens.
        seed: of the draw of placebos.
        progress: show a progress bar.
        options: those of ``tle.EditOptions``: window, stride, prepend_bos, include_special, special_ids, text_column, on_error,
            documents, interventions.

    Returns:
        ``NeuronEffects``, in nats: effects are values with the neuron at its mean less those without any change.
        ``screening()`` lists all neurons of the layers by their weights. The direct effect, and the whole effect in the last
        layer, take no pass; each neuron of an earlier layer takes one. Memory does not grow with the corpus.

    Raises:
        InputError: a layer or neuron that the model does not have or show, inputs that can be read only once, too few neurons
            to draw placebos from, a frequency of 0 without smoothing.
        ModelError: neurons or the final norm are not linear parts of the readout.

    Source: A. Stolfo et al. 2024, Confidence regulation neurons in language models, arXiv 2406.16254, sections 3 to 5;
    W. Gurnee et al. 2024, Universal neurons in GPT2 language models, arXiv 2401.12181.

    >>> import tl_entropy as tle
    >>> texts = ["import os, sys", "def f(x): return x"]
    >>> found = tle.neurons(tle.demo_model(), texts, candidates=2, placebos=3, progress=False)
    >>> found.roles.count("placebo"), len(found.screening()), found.mediated("loss", by="norm")[0].shape
    (3, 768, torch.Size([7]))
    """
    check_options(neurons, options, EditOptions)
    adapter = adapter_of(model)
    if not repeatable(split_cache(inputs)[1]):
        raise InputError(
            "inputs are read several times, to count tokens, for the means and to measure; a generator can be read once: pass "
            "a list of its texts"
        )
    candidates = check_int("candidates", candidates, 1)
    placebos = check_int("placebos", placebos, 0)
    seed = check_int("seed", seed, 0)
    given = None if only is None else _given(only, adapter)
    chosen = _layers(adapter, layers) if given is None else sorted(given)
    d_model = adapter.d_model
    k = (
        max(1, round(d_model / 100))
        if null_directions is None
        else check_int("null_directions", null_directions, 1, d_model - 1)
    )
    law = _law(adapter, inputs, options, frequencies, smoothing)
    screen = _screened(adapter, chosen, given, law, k, candidates, placebos, seed)
    reading: dict[str, Any] = {"positions": positions, "batch_size": batch_size, "progress": progress}
    means = site_means(adapter, inputs, [Site("post", layer) for layer in chosen], **reading, **options)
    accumulator = NeuronAccumulator(adapter, screen, means, law)
    given_options = cast("CorpusOptions", options)
    return measure(accumulator, inputs, max_new_tokens=0, options=given_options, count="predicted", **reading)


def _layers(adapter: Adapter, asked: Layers | None) -> list[int]:
    """The layers to screen, in order, each once."""
    if asked is not None:
        return sorted({site.layer for site in adapter.sites("post", asked)})
    having = adapter.layers_with("post")
    if not having:
        adapter.sites("post", -1)  # refuses with the reason
    return having[-1:]


def _given(only: Any, adapter: Adapter) -> dict[int, list[int]]:
    """Layer to neurons that were asked for."""
    found: dict[int, list[int]] = {}
    for layer, neuron in read_pairs(only, "neuron"):
        [layer] = layers_at(layer, range(adapter.n_layers))
        if neuron >= adapter.neurons.number(layer):
            last = adapter.neurons.number(layer) - 1
            raise InputError(f"only: neuron {layer}.{neuron} does not exist; layer {layer} has neurons 0 to {last}")
        found.setdefault(layer, []).append(neuron)
    return {layer: sorted(set(numbers)) for layer, numbers in found.items()}


def _law(adapter: Adapter, inputs: Any, options: EditOptions, frequencies: Any, smoothing: float) -> Tensor:
    """[d_vocab] frequencies of tokens, above 0."""
    counts = counted_tokens(adapter, inputs, cast("CorpusOptions", options)) if frequencies is None else frequencies
    law = checked_frequencies(counts, adapter.d_vocab) + check_number("smoothing", smoothing, 0)
    if not bool((law > 0).all()):
        raise InputError("smoothing must be above 0 where tokens have a frequency of 0: their log would be infinite")
    return law


def _screened(
    adapter: Adapter, layers: Sequence[int], given: dict[int, list[int]] | None, law: Tensor, k: int, candidates: int,
    placebos: int, seed: int,
) -> Screen:  # fmt: skip
    """All neurons of the layers by their weights, and which of them are ablated as what."""
    _, direction = unigram_direction(law)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    chosen: dict[int, list[int]] = {}
    roles: list[str] = []
    screened, numbers = [], []
    for layer in layers:
        unembedding = adapter.readout.unembedding
        written = adapter.neurons.weights(layer).to(unembedding.device)
        found = weight_numbers(written, adapter.frozen_norm, unembedding, direction, k)
        role = dict.fromkeys(given[layer], "given") if given is not None else _candidates(found, candidates)
        others = [i for i in range(len(found)) if i not in role]
        if len(others) < placebos:
            raise InputError(
                f"placebos: layer {layer} has {len(found)} neurons, of which {len(others)} are left to draw {placebos} from"
            )
        drawn = torch.randperm(len(others), generator=generator)[:placebos].tolist()
        role |= {others[i]: "placebo" for i in sorted(drawn)}
        chosen[layer] = list(role)
        roles += role.values()
        screened.append(torch.stack([torch.full((len(found),), layer), torch.arange(len(found))], 1))
        numbers.append(found)
    return Screen(chosen, tuple(roles), torch.cat(screened), torch.cat(numbers), k)


def _candidates(found: Tensor, n: int) -> dict[int, str]:
    """The n neurons with the largest share in the null space, and those of the others most along the unigram direction."""
    null = found[:, WEIGHTS.index("null_share")].argsort(descending=True, stable=True)[:n].tolist()
    along = found[:, WEIGHTS.index("unigram_cosine")].abs().argsort(descending=True, stable=True).tolist()
    rest = [i for i in along if i not in null][:n]
    return dict.fromkeys(null, "entropy") | dict.fromkeys(rest, "frequency")
