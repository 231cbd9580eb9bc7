"""How vectors of the residual stream are read as predictions: through a lens, the final norm and the unembedding.

Shared by everything that looks at vocabulary distributions, so that all of it reads the same way.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.interventions import SUBLAYERS
from tl_entropy.errors import InputError, NonFiniteError, check_choice
from tl_entropy.functional.lens.readout import compiler_available
from tl_entropy.lenses.protocol import Lens, check_lens, lens_name
from tl_entropy.sites import HEAD_SITES, Site
from tl_entropy.torch_state import yours

Precision = Literal["float32", "bfloat16"]

# Logits read from which on the statistics are compiled: compiling takes some 15 s, once, and then saves part of every tile.
COMPILE_FROM = 2**35


class Reading:
    """A model's readout through one lens, in one precision.

    Args:
        adapter: of the model.
        sites: what will be read; each must be a vector of the residual stream, or of what is added to it.
        lens: None is the logit lens.
        precision: of the product with the unembedding.
        compiled: whether statistics run as compiled code; None decides by the work.

    Attributes:
        ran_compiled: whether any have.
    """

    def __init__(
        self, adapter: Adapter, sites: tuple[Site, ...], *, lens: Lens | None, precision: Precision, compiled: bool | None
    ) -> None:
        check_choice("precision", precision, ("float32", "bfloat16"))
        heads = [site for site in sites if site.name in HEAD_SITES]
        if heads:
            raise InputError(
                f"sites: {heads[0]} has a head axis and no lens of its own; the lens reads residual-stream sites, and "
                "head_entropy reads heads"
            )
        for site in sites:
            if site.name in SUBLAYERS:
                adapter.contributions.factor(site)  # refuses what is no part of the stream that a lens reads
        check_lens(lens, adapter, sites)
        self.adapter, self.lens, self.precision, self.compiled = adapter, lens, precision, compiled
        self.readout = adapter.readout
        self.device = self.readout.unembedding.device
        self.ran_compiled = False
        self._work = 0

    def normed(self, site: Site, rows: Tensor) -> Tensor:
        """Rows [row, d_model] of a site as the unembedding takes them."""
        rows = rows.to(self.device)
        return self.readout.norm(rows if self.lens is None else self._translated(self.lens, site, rows))

    def compiles(self, rows: int) -> bool:
        """Whether the statistics of that many more rows are to run as compiled code."""
        self._work += rows * self.adapter.d_vocab
        if self.compiled is not None:
            return self.compiled
        return self.ran_compiled or (self._work >= COMPILE_FROM and compiler_available(self.device))

    def options(self) -> dict[str, Any]:
        """What ``vocabulary_statistics`` needs beside the rows."""
        readout = self.readout
        return {"bias": readout.bias, "scale": readout.scale, "softcap": readout.softcap, "precision": self.precision}

    def settings(self) -> dict[str, Any]:
        """The same, for a result's provenance."""
        return {
            "lens": lens_name(self.lens),
            "precision": self.precision,
            "compiled": self.ran_compiled,
            "readout_scale": self.readout.scale,
            "readout_softcap": self.readout.softcap,
            "readout_error": self.readout.error,
        }

    def merge(self, other: Reading) -> None:
        """Remember what another has done."""
        self.ran_compiled |= other.ran_compiled

    @staticmethod
    def _translated(lens: Lens, site: Site, rows: Tensor) -> Tensor:
        with torch.no_grad(), yours():
            translated = lens(site, rows)
        if not isinstance(translated, Tensor) or translated.shape != rows.shape:
            came = f"shape {list(translated.shape)}" if isinstance(translated, Tensor) else type(translated).__name__
            raise InputError(f"lens must return a tensor of shape {list(rows.shape)} for {site}; got {came}")
        if not bool(translated.isfinite().all()):
            raise NonFiniteError(f"lens {lens_name(lens)!r} gives a NaN or an infinity at {site}")
        return translated
