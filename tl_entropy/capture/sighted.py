"""What a model sees of a row beside the tokens before: later ones, padding, a mask of ones, the other rows of its batch.

It is asked once, by short passes (``capture/proofs/causality.py``), and again at the lengths that are measured
(``capture/proofs/longer.py``). What follows from it stands here: whether anything may be said of a next token, whether a mask
is handed on, and which rows share a pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from tl_entropy.batches import Batch, Window, batches
from tl_entropy.capture import origin
from tl_entropy.capture.attention import chooses_keys
from tl_entropy.capture.hooks import modules_of
from tl_entropy.capture.places import StackName
from tl_entropy.capture.proofs.causality import Sight, Unmasked, check_causal, left_padding, sight, unmasked
from tl_entropy.capture.proofs.longer import check_causal_up_to
from tl_entropy.capture.proofs.short_pass import ShortPass
from tl_entropy.capture.rotation import stretched_beyond
from tl_entropy.capture.runner import Runner
from tl_entropy.errors import ModelError, check_int, check_number
from tl_entropy.torch_state import cached_property, this_call

MAX_TOKENS = 4096
"""Cells of a batch (windows times longest) where no batch size is given."""

AHEAD = 1e-4
"""Attention weight on a later token above which it is seen."""


class Sighted(Runner):
    """A model that is given only rows of which it sees what it may.

    Args:
        model: a HookedTransformer or TransformerBridge.
        stack: of an encoder-decoder, the "decoder" (as for None) or the "encoder".

    Raises:
        InputError, InputTypeError, ModelError: as a ``Runner``.
    """

    def __init__(self, model: Any, *, stack: StackName | None = None) -> None:
        super().__init__(model, stack=stack)
        self._speaks_of_next = False  # whether what is measured does; then passes are of rows on which it looks back
        self._current_in: object = None  # the call in which its weights were found to be those that it has read

    @cached_property
    def sight(self) -> Sight:
        """Whether the model looks ahead, and whether a mask of ones, padding on the right or other rows matter to it."""
        return sight(self, self._unmasked)

    @property
    def masked(self) -> bool:
        """Whether its passes are handed a mask: where one of ones changes what the model computes, none is."""
        return self.sight.mask <= 1

    @cached_property
    def _unmasked(self) -> Unmasked:
        return unmasked(self)

    @property
    def reads_ahead(self) -> bool:
        """Whether the model's configuration declares that it looks ahead; what is measured then says so."""
        return bool(getattr(self.model.cfg, "reads_ahead", False))

    @property
    def memory_bits(self) -> float | None:
        """Bits that the model is told of each window beside the tokens before, as its configuration declares; None for none."""
        bits = getattr(self.model.cfg, "memory_bits", None)
        return None if bits is None else check_number("cfg.memory_bits", bits, 0)

    def check_looks_back(self) -> None:
        """Raise ModelError where the model looks ahead and does not declare it."""
        if not self.reads_ahead:
            check_causal(self.sight, self._looks_ahead_by)
            self._speaks_of_next = True

    def check_length(self, length: int) -> None:
        """Raise ModelError where the model looks ahead on rows of so many tokens, and what is measured speaks of a next one."""
        if self._speaks_of_next:
            check_causal_up_to(self, length, f"{self.fingerprint} {self.stack.of}", together=not self.alone)

    def _mask(self, mask: Tensor) -> dict[str, Tensor]:
        self.check_length(mask.shape[1])
        return super()._mask(mask)

    def looks_ahead(self, layer: int) -> bool:
        """Whether queries of a layer put weight on later tokens, as seen in a short pass; as configured where none is seen."""
        pattern = self._short_pass("pattern", layer)
        if pattern is None or pattern.ndim != 4 or pattern.shape[2] != pattern.shape[3]:
            return getattr(self.model.cfg, "attention_dir", "causal") != "causal"
        return bool(pattern.triu(1).amax() > AHEAD)

    def _looks_ahead_by(self) -> str:
        """By what it would look ahead."""
        if self.stack.of == "decoder":
            return "an encoder-decoder, whose encoder gives the decoder the whole text"
        if self.stack.of == "encoder" or any(map(self.looks_ahead, range(self.n_layers))):
            return "its attention goes in both directions"
        return "by something else than its attention"

    @property
    def pads_to(self) -> float:
        """How long rows may be to share a pass with rows of another length, where padding on the right tells them nothing.

        0 for none, infinite for any. An index that chooses keys may choose padding among keys that it holds equal, on rows
        longer than a proof's.
        """
        padding_tells = self.sight.padding > 1 or chooses_keys(self.model, self.stack.of)
        return 0.0 if padding_tells else self.stretched_beyond

    @cached_property
    def stretched_beyond(self) -> float:
        """The longest row whose positions are turned by the same angles whatever shares its pass; infinite where all are."""
        return stretched_beyond(modules_of(self.model))

    @property
    def alone(self) -> bool:
        """Whether a pass has one row, since the rows of a batch change each other's states."""
        return self.sight.neighbours > 1

    def batches(self, windows: Iterable[Window], batch_size: int | None) -> Iterator[Batch]:
        """Windows, gathered into batches that the model reads as it would read each window alone; see ``tl_entropy.batches``.

        Args:
            windows: of documents.
            batch_size: windows in a batch; None takes as many as fit in ``MAX_TOKENS``.
        """
        if batch_size is not None:
            batch_size = check_int("batch_size", batch_size, 1)
        size = 1 if self.alone else batch_size
        return batches(windows, batch_size=size, max_tokens=MAX_TOKENS, pad_id=self.pad_id, pads_to=self.pads_to)

    def check_rows(self, mask: Tensor) -> None:
        """Raise ModelError where rows of a batch, or padding as in its mask [batch, pos], change what the model computes."""
        if len(mask) > 1 and self.alone:
            raise ModelError(
                "the rows of a batch change each other's states on this model (experts that are full, a norm over the batch), "
                f"and this cache has {len(mask)}; make a cache of each row, or pass the tokens themselves"
            )
        left = bool((mask[:, 1:] > mask[:, :-1]).any())
        if not bool(mask.all()) and (mask.shape[1] > self.pads_to or (left and self._left_padding > 1)):
            raise ModelError(
                f"padding{' on the left' if left else ''} changes what this model computes, mask or no mask, so the states of "
                "this cache's padded rows are not those of their texts; make a cache of rows of one length, or pass the "
                "tokens themselves"
            )

    @cached_property
    def _left_padding(self) -> float:
        return left_padding(self)

    @property
    def fingerprint(self) -> str:
        """A hash over the model's weights, as they were at its first pass."""
        return self._weights.hash

    @cached_property
    def _weights(self) -> origin.Fingerprint:
        self._current_in = this_call()
        return origin.fingerprint(self.model)

    @cached_property
    def _short_pass(self) -> ShortPass:
        return ShortPass(self)
