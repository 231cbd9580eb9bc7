"""Prompts and continuations, with a stand-in for the model that writes what it is told to."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tl_entropy.capture.corpus import Corpus
from tl_entropy.capture.generate import Continuations
from tl_entropy.errors import InputError

END = 2


def writer(continuation, context=12, end=END):
    """Letters for tokens, 1 to begin, and always the same continuation."""
    seen = []

    def generate(tokens, max_new_tokens, *, temperature, seed):
        seen.append((tokens.shape, temperature, seed))
        return torch.cat([tokens, torch.tensor(continuation[:max_new_tokens]).expand(len(tokens), -1)], dim=1)

    return SimpleNamespace(
        encode=lambda text: [ord(c) for c in text], begin=1, end=end, special_ids=frozenset({1, END}), context=context,
        has_tokenizer=True, generate=generate, seen=seen,
    )  # fmt: skip


def rows_of(texts, adapter, new=4, **options):
    continuations = Continuations(Corpus(texts, adapter, prepend_bos=True), adapter, new, **options)
    return [row.tolist() for row in continuations], continuations


def test_order_is_kept_and_prompts_of_one_length_go_together():
    adapter = writer([90, 91, 92, 93])
    rows, continuations = rows_of(["abc", "a", "xyz"], adapter, temperature=0.5, seed=7)
    assert rows == [[1, *map(ord, text), 90, 91, 92, 93] for text in ("abc", "a", "xyz")]
    assert continuations.prompt_lengths == {0: 3, 1: 1, 2: 3}
    assert adapter.seen == [((1, 2), 0.5, 7), ((2, 4), 0.5, 7)]


def test_a_text_that_ends_keeps_its_end_and_loses_what_fills_up_behind():
    rows, _ = rows_of(["ab"], writer([90, END, END, END]))
    assert rows == [[1, 97, 98, 90, END]]
    rows, _ = rows_of(["ab"], writer([90, END, 91, 92], end=None))
    assert rows == [[1, 97, 98, 90, END, 91, 92]], "without an end token nothing ends early"


def test_empty_documents_keep_their_number():
    with pytest.warns(UserWarning, match="skipped"):
        rows, continuations = rows_of(["a", "", "b"], writer([90] * 4))
    assert rows == [[1, 97, 90, 90, 90, 90], [], [1, 98, 90, 90, 90, 90]]
    assert sorted(continuations.prompt_lengths) == [0, 2]


def test_no_room():
    rows_of(["a" * 7], writer([90] * 4))
    for text in ("a" * 8, "a" * 30):
        with pytest.raises(InputError, match="document 0 leaves no room for 4 new tokens in the model's context of 12"):
            rows_of([text], writer([90] * 4))
    with pytest.raises(InputError, match="temperature must be 0"):
        rows_of(["a"], writer([90] * 4), temperature=-0.1)
