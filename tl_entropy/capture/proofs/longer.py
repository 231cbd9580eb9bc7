"""That a model that looks back only on a short pass does so on texts as long as those that are measured.

Attention in both directions may begin behind a prefix, or go round in blocks that a short row does not fill. So the proof of
``causality.py`` is repeated on rows of 24, 48, ... tokens up to the windows that are measured, once for each model and power of
two: two rows of all these lengths together cost less than four windows. Where a model is trained between measurements, it is
repeated on the longest row alone.

Refused: lenses, losses and everything else that speaks of a next token, where the model looks ahead.
"""

from __future__ import annotations

import weakref

from tl_entropy.capture.feeding import out_of_memory
from tl_entropy.capture.hooks import Turns
from tl_entropy.capture.proofs.causality import PROVED, last_moves
from tl_entropy.capture.runner import Runner
from tl_entropy.errors import ModelError

_proved: weakref.WeakKeyDictionary[Turns, tuple[str, int]] = weakref.WeakKeyDictionary()
"""Of each model, what it was proved on last: its weights and its stack, and the longest row."""


def check_causal_up_to(runner: Runner, length: int, key: str, *, together: bool) -> None:
    """Raise ModelError where a model looks ahead on rows of ``length`` tokens or of fewer.

    Args:
        runner: of a model that looks back on a short pass.
        length: of the windows that are about to be measured.
        key: of its weights and its stack: what was proved of these is not asked again.
        together: whether rows may share a pass.
    """
    known, proved = _proved.get(runner.turns, (None, PROVED))
    again, proved = known not in (None, key), proved if known == key else PROVED
    if length.bit_length() <= proved.bit_length():
        return
    while proved < length:
        proved = length if again else min(2 * proved, length)
        if _moves(runner, proved, together=together) > 1:
            raise ModelError(
                f"this model looks ahead on longer texts: on {proved} tokens its states move when only the last token changes, "
                "and on fewer they do not, so nothing that it says at a position is about a next token that it has not seen. "
                "Lenses, losses and surprisals are refused on windows of that length; a smaller window= may do. A model that "
                "is meant to look ahead says so by cfg.reads_ahead = True, and is then measured as it is"
            )
    _proved[runner.turns] = key, length


def _moves(runner: Runner, length: int, *, together: bool) -> float:
    """How far earlier states move with the last of so many tokens, in units of rounding."""
    row = runner.row_of(length)
    try:
        return last_moves(runner, row, together=together)
    except Exception as error:
        if not together or not out_of_memory(error):
            raise
    return last_moves(runner, row, together=False)
