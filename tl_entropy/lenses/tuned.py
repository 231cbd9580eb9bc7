r"""The tuned lens: one affine translator for each layer boundary, y = x + A x + b (Belrose et al. 2023, arXiv 2303.08112).

The logit lens reads the residual stream as if every layer spoke the last one's language. The tuned lens translates first, with
A and b trained so that the distribution read from y is as near as it can be to the model's own output. Translator i belongs to
the residual stream that enters block i: ``embed`` and ``resid_pre.0`` have number 0, ``resid_post.i`` and ``resid_pre.i+1``
have i + 1. The last ``resid_post`` is what the model itself reads, and is left as it is.

TransformerLens can take the mean over d_model out of a model's residual stream (HookedTransformer's centred writing weights,
TransformerBridge's compatibility mode), which a final LayerNorm never sees, but a translator might. Lenses trained here never
do: on a model whose final norm ignores the mean, A maps a constant vector to 0, so one lens fits raw and processed models. A
lens from elsewhere may read the mean, and is refused where there is none.

Refused: sites between the boundaries (``resid_mid``, ``attn_out``, ``mlp_out``, heads), models of another width or depth, and
a lens that reads the mean of a residual stream on a model that has none.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.errors import InputError, counted, warn
from tl_entropy.lenses.identity import signature, stream_has_mean
from tl_entropy.results.base import Result, Unit
from tl_entropy.results.files import as_path, write_text, write_torch
from tl_entropy.results.holding import held
from tl_entropy.results.provenance import Provenance
from tl_entropy.sites import Site

LENS_TYPE = "linear_tuned_lens"
"""What the package ``tuned-lens`` calls translators of this form."""


@dataclass(frozen=True, eq=False, repr=False)
class TunedLens(Result):
    """A trained tuned lens: a function of a site and its rows, for ``lens=`` of a measurement.

    Made by ``train_tuned_lens``, ``load_tuned_lens`` or ``demo_lens``; written by ``save``.

    Attributes:
        weights: [layer, d_model, d_model] A of each translator, which takes x to x + A x + b.
        biases: [layer, d_model] b of each.
        provenance: the model, how the lens was trained (``settings``) and on what (``corpus``).
        losses: [2, layer] mean KL(output ‖ lens) over tokens of validation texts, in ``unit``: of the logit lens, and of this
            lens; None where there were none.
        signature: some log-probabilities that the model gave when the lens was trained, by which it is known again whatever
            its processing; None for a lens from elsewhere.
        unit: the unit of ``losses``.

    Raises:
        InputError: tensors whose shapes don't fit each other, or with a NaN or an infinity.

    >>> import tl_entropy as tle
    >>> lens, rows = tle.demo_lens(), torch.randn(4, 192)
    >>> bool((lens(Site("resid_post", 2), rows) == rows).all()), bool((lens(Site("resid_post", 5), rows) == rows).all())
    (False, True)
    """

    weights: Float[Tensor, "layer d_model d_model"]
    biases: Float[Tensor, "layer d_model"]
    provenance: Provenance
    losses: Float[Tensor, "2 layer"] | None = None
    signature: Float[Tensor, " value"] | None = None
    unit: Unit = "nats"

    in_units: ClassVar[tuple[str, ...]] = ("losses",)

    def __post_init__(self) -> None:
        shapes = list(self.weights.shape), list(self.biases.shape)
        layers, width = (shapes[1] + [0, 0])[:2]
        if not layers or not width or shapes != ([layers, width, width], [layers, width]):
            raise InputError(
                f"weights and biases of a tuned lens must be [layer, d_model, d_model] and [layer, d_model]; got {shapes}"
            )
        if not bool(self.weights.isfinite().all() and self.biases.isfinite().all()):
            raise InputError("weights and biases of a tuned lens must be finite; got a NaN or an infinity: train it again")

    @property
    def n_layers(self) -> int:
        """Number of translators: the layers of the model."""
        return len(self.biases)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.biases.shape[1]

    @property
    def name(self) -> str:
        """What a measurement's provenance calls this lens."""
        return f"tuned lens of {self.provenance.model}"

    def __call__(self, site: Site, rows: Tensor, /) -> Tensor:
        """What the last residual stream would be, of ``rows`` [..., d_model] at a site; in their dtype and on their device.

        Raises:
            InputError: a site that has no translator, or rows of another width.
        """
        index = self.index(site)
        if not rows.is_floating_point() or rows.shape[-1:] != (self.d_model,):
            raise InputError(
                f"rows must be floating-point and [..., {self.d_model}] for this lens; got {list(rows.shape)} of {rows.dtype}"
            )
        if index is None:
            return rows
        dtype = torch.promote_types(rows.dtype, torch.float32)
        key = rows.device, dtype
        if key not in self._placed:
            self._placed[key] = self.weights.to(*key), self.biases.to(*key)
        weights, biases = self._placed[key]
        wide = rows.to(dtype)
        return (wide + (wide @ weights[index].T + biases[index])).to(rows.dtype)

    def index(self, site: Site) -> int | None:
        """The number of a site's translator; None for the last ``resid_post``, which needs none.

        Raises:
            InputError: the site is no layer boundary, or the lens has no such layer.
        """
        boundaries = {"embed": 0, "resid_pre": site.layer, "resid_post": site.layer + 1}
        if site.name not in boundaries:
            raise InputError(
                f"lens: {self.name} has no translator for {site}; it knows embed, resid_pre and resid_post, where the model's "
                "layers meet. Use lens=None for other sites"
            )
        index = boundaries[site.name]
        if not 0 <= index <= self.n_layers or (site.name == "resid_pre" and index == self.n_layers):
            raise InputError(f"lens: {self.name} has layers 0 to {self.n_layers - 1}; there is no {site}")
        return index if index < self.n_layers else None

    def check(self, adapter: Adapter, sites: Sequence[Site], /) -> None:
        """Refuse what this lens does not fit; warn, once, of a model with other weights than it was trained on.

        Raises:
            InputError: another number of layers or another width, a site without a translator, or a lens that reads the
                residual stream's mean on a model that has it centred.
        """
        shape = adapter.n_layers, adapter.d_model
        if shape != (self.n_layers, self.d_model):
            raise InputError(
                f"lens: {self.name} is for {counted(self.n_layers, 'layer')} of d_model {self.d_model}; this model has "
                f"{shape[0]} of {shape[1]}. Load the lens of this model, or train one with train_tuned_lens"
            )
        for site in sites:
            self.index(site)
        if self._reads_mean and not stream_has_mean(adapter):
            raise InputError(
                f"lens: {self.name} reads the residual stream's mean over d_model (its model: {self.provenance.processing}), "
                "and this model has the mean taken out. Use a TransformerBridge without enable_compatibility_mode(), or "
                "HookedTransformer.from_pretrained_no_processing; or train a lens with train_tuned_lens, which fits both"
            )
        self._compare(adapter)

    def export(self, folder: str | Path) -> Path:
        """Write the lens as the package ``tuned-lens`` does, for its ``TunedLens.from_model_and_pretrained``.

        Raises:
            SaveError: the folder cannot be written to, or the disk has no room.
        """
        target = as_path("folder", folder)
        config = {
            "base_model_name_or_path": self.provenance.model, "d_model": self.d_model, "num_hidden_layers": self.n_layers,
            "bias": True, "lens_type": LENS_TYPE,
        }  # fmt: skip
        state = {f"{i}.weight": weight.clone() for i, weight in enumerate(self.weights)}
        state |= {f"{i}.bias": bias.clone() for i, bias in enumerate(self.biases)}
        with held("folder", target / "params.pt", wait=True):
            write_torch(target / "params.pt", state, sum(tensor.nbytes for tensor in state.values()))
            write_text(target / "config.json", json.dumps(config))
        return target

    def _title(self) -> list[str]:
        tokens = self.provenance.corpus.get("tokens_trained")
        trained = "training unknown" if tokens is None else f"trained on {counted(tokens, 'token', ',')}"
        stopped = ", interrupted" if self.provenance.interrupted else ""
        shape = f"{counted(self.n_layers, 'layer')} x d_model {self.d_model}"
        return [f"TunedLens: {shape}; {self.provenance.model}, {trained}{stopped}"]

    def _table(self) -> pd.DataFrame | None:
        if self.losses is None:
            return None
        names = ["embed", *(f"resid_post.{i}" for i in range(self.n_layers - 1))]
        return pd.DataFrame(self.losses.T.tolist(), names, ["logit lens", "tuned lens"]).map("{:.3f}".format)

    def _notes(self) -> list[str]:
        return [f"mean KL to the output on validation texts, {self.unit}"]

    @cached_property
    def _placed(self) -> dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]]:
        return {}

    @cached_property
    def _warned(self) -> set[str]:
        return set()

    @cached_property
    def _reads_mean(self) -> bool:
        """Whether a constant vector, the mean's direction, comes out of any translator as more than rounding."""
        answers = self.weights.double().sum(-1).norm(dim=-1) / self.d_model**0.5
        return bool((answers > 1e-3 * self.weights.double().flatten(1).norm(dim=-1)).any())

    def _compare(self, adapter: Adapter) -> None:
        if self.signature is None or adapter.fingerprint in self._warned:
            return
        # A token that a model masks has no probability to compare, whether its logit is -inf or -1e9.
        found, known = signature(adapter).clamp(min=-100), self.signature.clamp(min=-100)
        rough = adapter.dtype.itemsize < 4 or self.provenance.dtype in ("bfloat16", "float16")
        if found.shape != known.shape or not float((found - known).abs().mean()) <= (0.2 if rough else 0.01):
            self._warned.add(adapter.fingerprint)
            warn(
                f"{self.name} was trained on a model with other weights (its fingerprint was {self.provenance.weights}, this "
                f"one's is {adapter.fingerprint}): what it reads here may be worse than what it was trained to"
            )
