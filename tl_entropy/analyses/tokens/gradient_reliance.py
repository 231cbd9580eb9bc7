"""Gradient times activation: to first order, how much each token's prediction owes to each token before it.

With f_i a number that is made from the prediction of token i (its surprisal, its entropy, or the L1 norm of its logits), and
a_j the activation of position j at a site,

    G_ij = Σ_d a_jd · ∂f_i / ∂a_jd    ≈ f_i(a) - f_i(a with a_j at 0)

("gradient × input": Shrikumar et al. 2016, arXiv 1605.01713). Exact where f_i is linear in a_j, and as far off as f_i is bent
between a_j and 0 otherwise: at the last ``resid_post``, which only the final norm reads, every share is near 0, since the norm
ignores the scale. It needs one pass back for each token predicted, whatever the number of sources; runs with and without each
source (``reliance.py``) are exact, and need one pass for each source.

A memory or a state (``capture/memories.py``) is one vector a window: one source for all of the window's predictions.

Refused: other hooks of which positions are no part; sites at which gradients differ between kinds of models; documents longer
than a window, where tokens are the sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Unpack, cast

import torch
from torch import Tensor

from tl_entropy.analyses.measuring import measure
from tl_entropy.analyses.streaming import PositionMeasure
from tl_entropy.analyses.tokens.reliance import SourceRows, check_one_window, only_before
from tl_entropy.batches import Batch
from tl_entropy.capture.hooks import attribute
from tl_entropy.capture.interventions import check_heads
from tl_entropy.capture.memories import as_hook
from tl_entropy.capture.occlusion import edited_place, numbers_from_0
from tl_entropy.capture.options import CorpusOptions, EditOptions, check_options
from tl_entropy.capture.places import OF_WINDOWS
from tl_entropy.capture.progress import Bar
from tl_entropy.errors import InputError, ModelError, NonFiniteError, check_choice
from tl_entropy.functional.lens.entropies import in_double
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.reliance import TokenReliance
from tl_entropy.sites import Site
from tl_entropy.torch_state import steady

Of = Literal["loss", "l1", "entropy"]
SITES = ("embed", "resid_pre", "resid_post", "attn_out", "mlp_out", "z")
"""Where gradients are taken. At ``resid_mid`` by its hook, and not of a TransformerBridge, where it leads to the MLP alone."""


class GradientRelianceAccumulator(PositionMeasure[TokenReliance]):
    """Gathers gradients times activations; arguments as for ``gradient_reliance``. ``compute`` gives a ``TokenReliance``.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> gradients = tle.GradientRelianceAccumulator(model, "embed")
    >>> report = tle.stream(model, "import os", [gradients], count="predicted", progress=False)
    >>> gradients.compute().metrics
    ('gradient',)
    """

    runs_model = True
    alike = ("site", "of", "heads")
    gathered = ("_rows",)
    _rows: SourceRows

    def __init__(
        self, model: Any, site: str | Site, *, of: Of = "loss", heads: int | Iterable[int] | None = None, progress: bool = False
    ) -> None:
        super().__init__(model)
        check_choice("of", of, ("loss", "l1", "entropy"))
        self.site = self._place(site)
        # What a pass is to hand on: edits behind the site take part in the gradient, too.
        self.sites = (self.adapter.last_site,)
        self.of, self.heads = of, self._checked(heads)
        self.adapter.check_looks_back()
        self._progress = progress
        self._rows = SourceRows(self.adapter, self._nothing())

    def _place(self, given: Any) -> Site | str:
        """A site, or the name of a hook that is none of ``SITES``."""
        given = as_hook(given) if isinstance(given, str) else given
        if isinstance(given, str) and "hook_" in given:
            bridge = attribute(self.adapter.model, "original_model") is not None
            if given.endswith(".hook_resid_mid") and given in self.adapter.points and not bridge:
                return given
            place = edited_place(given, "taken for gradients")
            if not isinstance(place, Site) or place.name not in SITES:
                if given not in self.adapter.points:
                    raise InputError(f"site: this model has no hook {given!r}; model.hook_dict lists them")
                return given
            given = place
        place = Site.parse(given)
        check_choice("site", place.name, SITES)
        [found] = self.adapter.sites(place)
        return found

    @property
    def _of_window(self) -> str | None:
        """The short name of a site with one vector a window; None for others."""
        return next((name for name, hook in OF_WINDOWS.items() if hook == self.site), None)

    def _read(self, batch: Batch, activations: Mapping[Site, Tensor]) -> dict[str, Tensor]:
        """From one pass forward, and one back for each column that a counted position is in."""
        if self._of_window is not None:
            return {"values": self._attributed(batch)[..., None]}
        check_one_window(batch)
        return {"values": only_before(self._attributed(batch)[..., None], batch, own=True)}

    def _settings(self) -> dict[str, Any]:
        return {"site": self._of_window or str(self.site), "of": self.of, "heads": self.heads}

    def _result(self, provenance: Provenance) -> TokenReliance:
        parts = None if self._of_window is None else (self._of_window,)
        return self._rows.result(parts, {"gradient": "" if self.of == "l1" else "nats"}, self.adapter, provenance)

    def _attributed(self, batch: Batch) -> Tensor:
        """Gradient times activation [row, source] in float64, on the CPU; 0 where there is no such position."""
        leaf, logits = self.adapter.differentiable(batch.tokens, batch.attention_mask, self.site)
        if self._of_window is None and leaf.shape[:2] != batch.tokens.shape:
            raise InputError(
                f"site: what passes {self.site} is {list(leaf.shape)}, but to be a source at every position it must be "
                f"[batch, pos, ...] with [batch, pos] = {list(batch.tokens.shape)}; take another hook"
            )
        counted, target = batch.counted.to(logits.device), batch.target.to(logits.device)
        sources = int(batch.row_position.max()) + 1 if self._of_window is None else 1
        found = torch.zeros(*batch.tokens.shape, sources, dtype=torch.float64)
        real = batch.position >= 0
        columns = batch.counted.any(0).nonzero()[:, 0].tolist()
        for column in Bar(columns, unit="token", desc="backward", nested=True, show=self._progress):
            with torch.inference_mode(False), torch.enable_grad():
                here = counted[:, column].clone()  # kept for the way back, which what was made in inference mode cannot be
                value = _numbers_of(self.of, logits[:, column], target[:, column])[here].sum()
                # Windows do not see each other: the gradient of their sum is that of each.
                [gradient] = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
            if gradient is None:
                raise ModelError(f"site: the model's logits do not depend on what passes {self.site}; take another site")
            product = in_double(gradient.detach()) * in_double(leaf.detach())
            if self.heads is not None:
                product = self.adapter.heads.cut(cast("Site", self.site).layer, product)[:, :, list(self.heads)]
            shares = product.flatten(1 if self._of_window else 2).sum(-1).cpu()
            if not bool(shares.isfinite().all()):
                document = int(batch.document[int((~shares.isfinite()).flatten(1).any(1).nonzero()[0, 0])])
                raise NonFiniteError(
                    f"the gradient at {self.site} has a NaN or an infinity at document {document}, column {column} of its "
                    "window; check the weights and the dtype"
                )
            for window in batch.counted[:, column].nonzero()[:, 0].tolist():
                own = shares[window, None] if self._of_window else shares[window, real[window]][:sources]
                found[window, column, : len(own)] = own
        return batch.rows(found)

    def _nothing(self) -> dict[str, Tensor]:
        return {"values": torch.zeros(0, 0 if self._of_window is None else 1, 1, dtype=torch.float64)}

    def _checked(self, heads: int | Iterable[int] | None) -> tuple[int, ...] | None:
        if heads is None:
            return None
        if not isinstance(self.site, Site) or self.site.name != "z":
            raise InputError(f"heads are of z, such as 'z.2'; {self.site} has none")
        chosen = numbers_from_0("heads", heads)
        check_heads(chosen, self.adapter, self.site.layer)
        return chosen


def _numbers_of(of: Of, logits: Tensor, target: Tensor) -> Tensor:
    """The number [batch] that the gradient is of, from logits [batch, d_vocab]."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if of == "l1":
        return logits.masked_fill(logits == -torch.inf, 0.0).abs().sum(-1)  # of tokens that can come
    log_p = logits.log_softmax(-1)
    if of == "loss":
        if len(target) and int(target.max()) >= log_p.shape[-1]:
            raise InputError(f"targets must be below the vocabulary's {log_p.shape[-1]} tokens; got {int(target.max())}")
        return -log_p.gather(-1, target.clamp(min=0)[:, None])[:, 0]
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)


@steady
def gradient_reliance(
    model: Any,
    inputs: Any,
    site: str | Site,
    *,
    of: Of = "loss",
    heads: int | Iterable[int] | None = None,
    positions: int | slice | Sequence[int] | None = None,
    batch_size: int | None = 1,
    progress: bool = True,
    **options: Unpack[EditOptions],
) -> TokenReliance:
    r"""Gradient times activation: what the prediction of every token owes, to first order, to each token before it.

    The number of token i and source j is Σ_d a_jd · ∂f_i / ∂a_jd, with a_j the activation of position j at the site and f_i
    made from the prediction of token i. It estimates f_i less what f_i would be with a_j at 0, and keeps its sign: below 0,
    f_i would be larger without the source. That is the other way round than the "loss" and "entropy" of ``token_reliance``,
    which are f_i without the source less f_i. Like these, it is not entropy.

    | of | f_i | unit |
    |---|---|---|
    | "loss" | surprisal of token i | nats |
    | "entropy" | entropy of its prediction | nats |
    | "l1" | Σ abs(l) over the vocabulary, the L1 norm of its logits | |

    One pass forward, and one back for each token predicted, for all sources at once: many times slower than reading a text.
    Ctrl-C waits for the end of the document; a second one does not. Parameters' gradients and the model's flags are left
    alone.

    Args:
        model: a HookedTransformer or TransformerBridge.
        inputs: texts, tokens, files or data sets; see ``stream``. Each document has to fit into a window.
        site: where the sources' activations are: "embed" (the stream that enters block 0), "resid_pre.3", "resid_post.3",
            "attn_out.2", "mlp_out.0" or "z.2"; or the name of any other hook whose activation is [batch, pos, ...], such as
            "blocks.1.attn.hook_v", which may mean another thing on another kind of model; or, of models with one, the "memory"
            or "state" of a window, the one source of all its predictions.
        of: what the gradient is of.
        heads: of "z", the heads that are summed; None is all.
        positions: positions of each document, of the tokens predicted; None is all. Sources are all tokens before them, but not
            the BOS, whose share is left out.
        batch_size: windows a batch. The pass backward keeps everything that the model computes, and logits of all positions.
        progress: show progress bars, of documents and of tokens.
        options: those of ``tle.EditOptions``: window, stride, prepend_bos, include_special, special_ids, text_column,
            on_error, documents, interventions.

    Returns:
        ``TokenReliance`` with the one metric "gradient" and tokens, or a memory, as sources. As exact as the model's own
        arithmetic.

    Raises:
        InputError, InputTypeError: an argument or an item of the input that can't be measured, or a document longer than a
            window.
        ModelError: the site's hook never fires, or the logits do not depend on it.
        NonFiniteError: a NaN or infinity inside the model or its gradients; its ``partial`` holds the result so far.

    Source: Shrikumar et al. 2016, "Not just a black box", arXiv 1605.01713, for each token of a causal model.

    >>> import tl_entropy as tle
    >>> result = gradient_reliance(tle.demo_model(), "import os\nimport sys\n", "embed", positions=[3, 4], progress=False)
    >>> result.tokens(), result.matrix().shape
    (['import', ' sys'], (4, 2))
    """
    check_options(gradient_reliance, options, EditOptions)
    accumulator = GradientRelianceAccumulator(model, site, of=of, heads=heads, progress=progress)
    return measure(
        accumulator, inputs, positions=positions, max_new_tokens=0, batch_size=batch_size, progress=progress,
        options=cast("CorpusOptions", options),
        count="predicted",
    )  # fmt: skip
