"""Heads and neurons ablated: what the model does without single units of its attention and its MLPs.

A head is what passes ``z``, before W_O; a neuron is one entry of ``post``, behind the nonlinearity and, where there is one, the
gate. Either is replaced at every position by 0 or by its mean over a corpus (Wang et al. 2022, "Interpretability in the wild",
arXiv 2211.00593, section 2; of neurons: Stolfo et al. 2024, "Confidence regulation neurons in language models", arXiv
2406.16254). Each has a placebo: as many other units of the same layers, drawn at random.

Refused: units that the model does not have, layers whose units TransformerLens does not show, means of another shape.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.hooks import hook_name
from tl_entropy.capture.interventions import Edit, Intervention, fingerprint
from tl_entropy.errors import InputError, InputTypeError, check_int
from tl_entropy.sites import Site, layers_at
from tl_entropy.torch_state import steady


class _Kind(NamedTuple):
    """What heads and neurons differ in.

    Attributes:
        name: in the singular.
        site: where they pass, [batch, pos, unit, ...].
        axes: of the means of a layer.
        means_of: what gives them.
        shape: of those of a layer of a model, the units first.
    """

    name: str
    site: str
    axes: str
    means_of: str
    shape: Callable[[Adapter, int], tuple[int, ...]]


_HEAD = _Kind(
    "head", "z", "head, d_head", "head_means(model, inputs)", lambda adapter, layer: tuple(adapter.heads.shape(layer))
)
_NEURON = _Kind(
    "neuron", "post", "neuron", 'site_means(model, inputs, "post")', lambda adapter, layer: (adapter.neurons.number(layer),)
)


@steady
def ablate_heads(
    heads: Iterable[tuple[int, int]] | np.ndarray | Tensor, *, means: Mapping[int, ArrayLike] | None = None
) -> Intervention:
    """Replace the output of attention heads, before W_O, by 0 or by a mean: what the model does without them.

    0 means another thing where TransformerLens has folded the value biases b_V (HookedTransformer by default, compatibility
    mode): z then lacks b_V, which ablation leaves in the stream, and the change can even have another sign. Ablation to
    ``head_means`` does not depend on it; use that to compare models or processings.

    Args:
        heads: pairs of a layer, from 0 or negative from the last, and a head, from 0; or an array [head, 2] of them.
        means: layer to z [head, d_head] to put in, as ``head_means`` gives, tensors or arrays; None is 0.

    Raises:
        InputError: no head, a negative one, or a layer without means or with means of another shape; when measuring, a head
            that the model does not have.
        InputTypeError: something that is no pair of ints, or means that are no mapping to arrays.

    >>> ablate_heads([(3, 1), (3, 0)]).name
    'ablate heads 3.0, 3.1'
    """
    return _ablated(_HEAD, read_pairs(heads, "head"), means)


@steady
def ablate_neurons(
    neurons: Iterable[tuple[int, int]] | np.ndarray | Tensor, *, means: Mapping[Site, ArrayLike] | None = None
) -> Intervention:
    """Replace the activations of neurons, behind the nonlinearity, by 0 or by a mean: what the model does without them.

    Args:
        neurons: pairs of a layer, from 0 or negative from the last, and a neuron, from 0; or an array [neuron, 2] of them.
        means: Site to activations [neuron] to put in, as ``site_means(model, inputs, "post")`` gives; None is 0.

    Raises:
        InputError: no neuron, a negative one, or a layer without means or with means of another shape; when measuring, a
            neuron that the model does not have, or a layer whose neurons it does not show.
        InputTypeError: something that is no pair of ints, or means that are no mapping to arrays.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> means = tle.site_means(model, "import os", "post.5", progress=False)
    >>> edit = tle.ablate_neurons([(5, 3), (5, 0)], means=means)
    >>> edit.name.startswith("ablate neurons 5.0, 5.3 to means ")
    True
    >>> changed = tle.token_surprisal(model, "import os", interventions=edit, progress=False)
    """
    by_site = {Site.parse(key, "means"): value for key, value in means.items()} if isinstance(means, Mapping) else means
    by_layer = (
        by_site if not isinstance(by_site, dict) else {s.layer: value for s, value in by_site.items() if s.name == "post"}
    )
    return _ablated(_NEURON, read_pairs(neurons, "neuron"), by_layer)


def _ablated(kind: _Kind, pairs: Sequence[tuple[int, int]], means: Any) -> Intervention:
    """The ablation of units, to 0 or to ``means`` by layer."""
    name = f"ablate {kind.name}s " + ", ".join(f"{layer}.{unit}" for layer, unit in pairs)
    if pairs[0][0] < 0:
        kept = copy.deepcopy(means)
        return Intervention.counted_back(
            name, {Site(kind.site, layer) for layer, _ in pairs},
            lambda n: _ablated(kind, sorted((layers_at(layer, range(n))[0], unit) for layer, unit in pairs), kept),
        )  # fmt: skip
    layers: dict[int, list[int]] = {}
    for layer, unit in pairs:
        layers.setdefault(layer, []).append(unit)
    put_in = None if means is None else {layer: _mean(kind, means, layer, chosen[-1]) for layer, chosen in layers.items()}

    def check(adapter: Adapter) -> None:
        for layer, chosen in layers.items():
            there, last = f"{kind.name}s: {layer}.{chosen[-1]} does not exist", adapter.n_layers - 1
            if layer > last:
                raise InputError(f"{there}; the model has layers 0 to {last}")
            shape = kind.shape(adapter, layer)
            if chosen[-1] >= shape[0]:
                raise InputError(f"{there}; layer {layer} has {kind.name}s 0 to {shape[0] - 1}")
            if put_in is not None and tuple(put_in[layer].shape) != shape:
                raise InputError(
                    f"means: those of layer {layer} must be [{kind.axes}] = {list(shape)}; got {list(put_in[layer].shape)}"
                )

    def replace(layer: int, chosen: list[int]) -> Edit:
        def edit(activation: Tensor, hook: Any) -> Tensor:
            index = torch.tensor(chosen, device=activation.device)
            if put_in is None:
                return activation.index_fill(2, index, 0.0)
            values = put_in[layer][chosen].to(activation)
            return activation.index_copy(2, index, values.expand(*activation.shape[:2], *values.shape))

        return edit

    def matched(adapter: Adapter, generator: torch.Generator) -> Intervention:
        others = [
            (layer, unit)
            for layer, chosen in layers.items()
            for unit in _others(kind, layer, kind.shape(adapter, layer)[0], chosen, generator)
        ]
        return _ablated(kind, others, means)

    if put_in is not None:
        name += f" to means {fingerprint(*(put_in[layer][chosen] for layer, chosen in layers.items()))}"
    hooks = tuple((hook_name(Site(kind.site, layer)), replace(layer, chosen)) for layer, chosen in layers.items())
    return Intervention(name, hooks, check, matched=matched)


def read_pairs(given: Any, what: str) -> list[tuple[int, int]]:
    """Pairs of a layer and a number in it, of heads or neurons (``what``, in the singular), in order, each once.

    >>> read_pairs([(3, 1), (0, 2), (3, 1)], "head")
    [(0, 2), (3, 1)]
    """
    given = _plain(given)
    items = [_plain(item) for item in given] if isinstance(given, Iterable) else [given]
    if not items:
        raise InputError(f"{what}s is empty; give pairs of a layer and a {what}, such as [(3, 1)]")
    for item in items:
        if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 2:
            raise InputTypeError(f"{what}s must be pairs of a layer and a {what}, such as [(3, 1)]; got {item!r} in it")
    return sorted({(check_int(f"{what}s: a layer", layer), check_int(f"{what}s: a {what}", i, 0)) for layer, i in items})


def _plain(value: Any) -> Any:
    """Arrays and tensors as lists; anything else as it is."""
    return value.tolist() if isinstance(value, np.ndarray | Tensor) else value


def _mean(kind: _Kind, means: Any, layer: int, highest: int) -> Tensor:
    """A copy of the means of a layer, which must have the unit ``highest``."""
    axes = f"[{kind.axes}]"
    if not isinstance(means, Mapping):
        keys = "layers" if kind is _HEAD else "sites"
        raise InputTypeError(f"means must map {keys} to tensors {axes}, as {kind.means_of} does; got {type(means).__name__}")
    if layer not in means:
        raise InputError(f"means: none for layer {layer}; {kind.means_of} gives those of every layer")
    given = means[layer]
    try:
        # A list becomes float64 on the way through NumPy; torch would make it float32.
        mean = torch.as_tensor(given if isinstance(given, Tensor) else np.asarray(given)).detach().clone()
    except (TypeError, ValueError) as error:
        raise InputTypeError(f"means: those of layer {layer} must be a tensor or array {axes}; got {given!r}") from error
    if not mean.ndim or mean.is_complex():
        raise InputTypeError(f"means: those of layer {layer} must be a real tensor or array {axes}; got {given!r}")
    if mean.ndim != kind.axes.count(",") + 1 or len(mean) <= highest:
        raise InputError(f"means: those of layer {layer} must be {axes}, with {kind.name} {highest}; got {list(mean.shape)}")
    return mean


def _others(kind: _Kind, layer: int, number: int, chosen: Sequence[int], generator: torch.Generator) -> list[int]:
    """As many units of a layer that has ``number`` of them, drawn at random among the others."""
    others = sorted(set(range(number)) - set(chosen))
    if len(others) < len(chosen):
        raise InputError(
            f"edit: layer {layer} has {len(others)} other {kind.name}s, and {len(chosen)} are to be matched; give matched= to "
            "placebo"
        )
    return sorted(others[i] for i in torch.randperm(len(others), generator=generator)[: len(chosen)].tolist())
