"""Labels of spans of characters (``labels/spans.py``) on the documents that a corpus reads: where in its text each token is.

A document that came as token ids has the text that they decode to where the tokenizer splits that text into the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tl_entropy.analyses.placing import placed
from tl_entropy.batches import Window
from tl_entropy.capture.adapter import Adapter
from tl_entropy.labels.spans import Places, SpanLabels


def has_spans(labels: Any) -> bool:
    """Whether any of the label sets asked for is one of spans."""
    return isinstance(labels, Mapping) and any(isinstance(asked, SpanLabels) for asked in labels.values())


def of_tokens(adapter: Adapter, labels: Mapping[str, Any], windows: Sequence[Window | None]) -> dict[str, Any]:
    """The label sets asked for, those of spans as labels of positions.

    Args:
        adapter: of the model.
        labels: label sets by name.
        windows: any window of each document; None for one without a token.

    Raises:
        InputError, InputTypeError: spans that are none of their document, or a document whose places are not known.
    """
    places = [_places(adapter, window) for window in windows]
    return {
        name: asked.entries(f"labels[{name!r}]", places) if isinstance(asked, SpanLabels) else asked
        for name, asked in labels.items()
    }


def _places(adapter: Adapter, window: Window | None) -> Places | None:
    """Where in its text the tokens of a document are, the BOS not among them; None where that is not known."""
    if window is None:
        return Places("", torch.zeros(0, 2, dtype=torch.long))
    text = adapter.text(window.body.tolist()) if window.text is None else window.text
    found = None if text is None else placed(adapter, text, len(window.body))
    if text is None or found is None or not torch.equal(found.tokens, window.body.cpu()):
        return None
    return Places(text, found.span + len(text) - len(found.text))
