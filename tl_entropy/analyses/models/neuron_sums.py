"""What changes with neurons at their means, gathered: sums of effects over tokens and documents.

Ablation moves the last residual stream x of a position by δ w, with δ the mean activation less that of the position and w what
the neuron writes. With s the scale of the final norm, frozen at x, the logits move along one direction, δ s · (P w ∘ g) @ W_U:
the direct effect needs no pass. Nor does the whole effect of a neuron of the last layer: with s' the norm's scale at x + δ w,
the logits are s'/s times the old ones plus δ s' times that direction. Neurons of earlier layers are ablated in a pass each.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor

from tl_entropy.accumulators import DocumentMeans, DocumentProducts
from tl_entropy.analyses.models.neuron_weights import unigram_direction
from tl_entropy.analyses.rows import closed
from tl_entropy.analyses.streaming import StreamingMeasure
from tl_entropy.batches import Batch
from tl_entropy.capture.ablation import ablate_neurons
from tl_entropy.capture.edits import Edits
from tl_entropy.functional.lens.moved import Constants, Moved, Moves, moved_statistics
from tl_entropy.results.models.neurons import BASELINE, CHANGES, SIZES, NeuronEffects
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site
from tl_entropy.state import Kept


class Screen(Kept):
    """Which neurons are ablated, and what the weights say of all.

    Attributes:
        chosen: layer to the numbers of its neurons ablated.
        roles: of each, in the order of layers and numbers.
        screened: [all, 2] layer and number of all neurons of the layers.
        weights: [all, 4].
        null_directions: how many.
    """

    def __init__(
        self, chosen: dict[int, list[int]], roles: tuple[str, ...], screened: Tensor, weights: Tensor, null_directions: int
    ) -> None:
        self.chosen, self.roles, self.screened, self.weights = chosen, roles, screened, weights
        self.null_directions = null_directions

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Layer and number of each neuron ablated."""
        return [(layer, neuron) for layer, numbers in self.chosen.items() for neuron in numbers]


class NeuronAccumulator(StreamingMeasure[NeuronEffects]):
    """Sums of what changes with neurons at their means.

    Args:
        model: a HookedTransformer, TransformerBridge or ``Adapter``.
        screen: which neurons.
        means: of the site ``post`` of their layers.
        frequencies: [d_vocab], above 0.
    """

    alike = ("pairs", "given")
    gathered = ("_baseline", "_effects")
    bound = ("_constants", "_unigram")

    def __init__(self, model: Any, screen: Screen, means: Mapping[Site, Tensor], frequencies: Tensor) -> None:
        super().__init__(model)
        self.screen, self.means, self.frequencies = screen, dict(means), frequencies
        self.pairs = screen.pairs
        self.given = sha256(b"".join(x.numpy().tobytes() for x in (frequencies, *self.means.values()))).hexdigest()[:16]
        last = self.adapter.last_site
        self.sites = (*(Site("post", layer) for layer in screen.chosen), last)
        self.runs_model = any(layer != last.layer for layer in screen.chosen)
        self._known: dict[str, Any] = {}  # of the readout, for a file that is read without the model
        self._baseline = DocumentMeans((len(BASELINE),))
        self._effects = DocumentProducts((len(self.pairs), len(CHANGES) + len(SIZES)))

    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch; all or nothing."""
        baseline = torch.zeros(batch.n_rows, len(BASELINE), dtype=torch.float64)
        changes = torch.zeros(batch.n_rows, len(self.pairs), len(CHANGES), dtype=torch.float64)
        if batch.n_rows:
            baseline, changes = self._read(batch, activations)
        sizes = changes[..., [i for i, name in enumerate(CHANGES) if f"abs_{name}" in SIZES]].abs()
        predicted = batch.row_target >= 0
        documents, ended = batch.row_document[predicted], closed(batch)
        self._baseline.update(baseline[predicted], documents, ended)
        self._effects.update(torch.cat([changes, sizes], -1)[predicted], documents, ended)

    def _read(self, batch: Batch, activations: Mapping[Site, Tensor]) -> tuple[Tensor, Tensor]:
        """[row, 3] and [row, neuron, change], float64 on the CPU."""
        last, of = self.adapter.last_site, self._constants
        x = batch.rows(activations[last]).to(of.unembedding.device)
        targets = batch.row_target.clamp(min=0).to(x.device)
        hidden, scale = self._normed(x)
        before = moved_statistics(hidden, hidden[:0], _still(hidden), targets, of)
        changes = []
        for layer, numbers in self.screen.chosen.items():
            site = Site("post", layer)
            delta = (self.means[site][numbers].to(hidden) - batch.rows(activations[site])[:, numbers].to(hidden)).T
            weights = self.adapter.neurons.weights(layer)[numbers].to(x.device)
            directions = self.adapter.frozen_norm(weights, torch.ones(len(weights), device=x.device)).to(hidden)
            direct = Moves(torch.ones_like(delta), delta * scale, torch.arange(len(numbers)), torch.zeros_like(delta))
            if layer == last.layer:
                whole = self._through_norm(x, hidden, scale, delta, weights, directions)
                found = moved_statistics(hidden, directions, _joined(direct, *whole), targets, of)
            else:
                straight = moved_statistics(hidden, directions, direct, targets, of)
                found = _joined(straight, *self._through_passes(batch, layer, numbers, hidden, targets))
            changes.append(_changes(before, found))
        return torch.cat([before.entropy, before.loss, before.cost - before.entropy]).T.cpu(), torch.cat(changes, 1)

    def _through_norm(
        self, x: Tensor, hidden: Tensor, scale: Tensor, delta: Tensor, weights: Tensor, directions: Tensor
    ) -> tuple[Moves, Moves]:
        """The whole effect of neurons of the last layer, and that with what logits have of the unigram direction as it was."""
        after = torch.stack([self._normed(x + d[:, None] * w)[1] for d, w in zip(delta, weights, strict=True)])
        whole = Moves(after / scale, delta * after, torch.arange(len(weights)), torch.zeros_like(delta))
        moved = (whole.factor - 1) * self._along(hidden) + whole.amount * self._along(directions)[:, None]
        return whole, whole._replace(along=-moved)

    def _through_passes(
        self, batch: Batch, layer: int, numbers: list[int], hidden: Tensor, targets: Tensor
    ) -> tuple[Moved, Moved]:
        """The same of neurons of an earlier layer, of which each takes a pass."""
        last, before = self.adapter.last_site, self._along(hidden)
        found = []
        for neuron in numbers:
            edits = Edits(self.adapter, ablate_neurons([(layer, neuron)], means=self.means), (last,))
            with self.adapter.edited(edits.hooks):
                after = self.adapter.activations(batch.tokens, batch.attention_mask, (last,))[last]
            moved, _ = self._normed(batch.rows(after).to(hidden.device))
            still = _still(moved)
            back = still._replace(along=(before - self._along(moved))[None])
            found.append(moved_statistics(moved, moved[:0], _joined(still, back), targets, self._constants))
        whole, off = (Moved(*(torch.stack([x[i] for x in part]) for part in zip(*found, strict=True))) for i in (0, 1))
        return whole, off

    def _normed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows as the unembedding takes them, without the norm's bias, and the norm's scale of each."""
        scale = self.adapter.frozen_norm.scale(x)
        return self.adapter.frozen_norm(x, scale), scale

    def _along(self, normed: Tensor) -> Tensor:
        """[row] how far the logits of normed rows reach along the unigram direction."""
        return normed @ self._unigram.to(normed)

    @cached_property
    def _constants(self) -> Constants:
        readout, frozen = self.adapter.readout, self.adapter.frozen_norm
        cost, direction = unigram_direction(self.frequencies)
        shift = frozen.bias @ readout.unembedding.to(frozen.bias)
        if readout.bias is not None:
            shift = shift + readout.bias.to(shift)
        return Constants(readout.unembedding, shift, direction.to(shift), cost.to(shift.device), readout.scale, readout.softcap)

    @cached_property
    def _unigram(self) -> Tensor:
        """[d_model] W_U times the unigram direction."""
        return self._constants.unembedding.to(self._constants.along) @ self._constants.along

    def _settings(self) -> dict[str, Any]:
        if not self._known:
            readout, norm = self.adapter.readout, self.adapter.frozen_norm
            self._known = {
                "readout_scale": readout.scale, "readout_softcap": readout.softcap, "frozen_norm_error": norm.error
            }  # fmt: skip
        return {
            "neurons": tuple(f"{layer}.{neuron}" for layer, neuron in self.pairs), "roles": self.screen.roles,
            "null_directions": self.screen.null_directions, "given": self.given, **self._known,
        }  # fmt: skip

    def _result(self, provenance: Provenance) -> NeuronEffects:
        screen = self.screen
        return NeuronEffects(
            neurons=torch.tensor(self.pairs), roles=screen.roles,
            activations=torch.cat([self.means[Site("post", layer)][numbers] for layer, numbers in screen.chosen.items()]),
            products=self._effects.sums(), baseline=self._baseline.sums(), screened=screen.screened, weights=screen.weights,
            null_directions=screen.null_directions, provenance=provenance,
        )  # fmt: skip


def _still(hidden: Tensor) -> Moves:
    """No change."""
    one = hidden.new_ones(1, len(hidden))
    return Moves(one, torch.zeros_like(one), torch.tensor([-1]), torch.zeros_like(one))


def _joined(*parts: Any) -> Any:
    """Changes, or what was found of them, one after the other."""
    return type(parts[0])(*(torch.cat(fields) for fields in zip(*parts, strict=True)))


def _changes(before: Moved, found: Moved) -> Tensor:
    """[row, neuron, change] on the CPU, of what was found of each neuron's direct, whole and off-unigram change."""
    difference = Moved(*(after - first for first, after in zip(before, found, strict=True)))
    direct, whole, off = (Moved(*(x.chunk(3)[i] for x in difference)) for i in range(3))
    columns = (
        whole.entropy, whole.loss, whole.cost - whole.entropy, direct.entropy, direct.loss, off.entropy, off.loss
    )  # fmt: skip
    return torch.stack([column.T for column in columns], -1).cpu()
