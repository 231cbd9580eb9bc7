"""Prompts and continuations, with a stand-in for the model that writes what it is told to."""

from __future__ import annotations

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tl_entropy as tle
from tl_entropy.capture.corpus import Corpus
from tl_entropy.capture.generate import Continuations, check_sampling, group_seed
from tl_entropy.capture.options import described
from tl_entropy.capture.proofs.generation import Generated
from tl_entropy.capture.stream import stream
from tl_entropy.capture.vocabulary import Vocabulary
from tl_entropy.errors import InputError, InputTypeError

END = 2


def writer(continuation, context=12, ends=(END,)):
    """Letters for tokens, 1 to begin, and always the same continuation."""
    seen = []

    def generate(tokens, max_new_tokens, *, temperature, seed):
        seen.append((tokens.shape, temperature, seed))
        return Generated(torch.cat([tokens, torch.tensor(continuation[:max_new_tokens]).expand(len(tokens), -1)], dim=1), True)

    return SimpleNamespace(
        encode=lambda text: [ord(c) for c in text], begin=1, special_ids=frozenset({1, END}), context=context,
        until_end=partial(Vocabulary.until_end, SimpleNamespace(ends=ends)), has_tokenizer=True, n_ids=2**20,
        strings=lambda ids: {i: chr(i) for i in ids}, generate=generate, seen=seen,
        alone=False,
    )  # fmt: skip


def rows_of(texts, adapter, new=4, **options):
    continuations = Continuations(Corpus(texts, adapter, prepend_bos=True), adapter, new, **options)
    return [row.tolist() for row in continuations], continuations


def test_order_is_kept_and_prompts_of_one_length_go_together():
    adapter = writer([90, 91, 92, 93])
    rows, continuations = rows_of(["abc", "a", "xyz"], adapter, temperature=0.5, seed=7)
    assert rows == [[1, *map(ord, text), 90, 91, 92, 93] for text in ("abc", "a", "xyz")]
    assert continuations.prompt_lengths == {0: 3, 1: 1, 2: 3}
    assert adapter.seen == [((1, 2), 0.5, group_seed(7, 1)), ((2, 4), 0.5, group_seed(7, 0))]


def test_a_text_that_ends_keeps_its_end_and_loses_what_fills_up_behind():
    rows, _ = rows_of(["ab"], writer([90, END, END, END]))
    assert rows == [[1, 97, 98, 90, END]]
    rows, _ = rows_of(["ab"], writer([90, END, 91, 92], ends=()))
    assert rows == [[1, 97, 98, 90, END, 91, 92]], "without an end token nothing ends early"
    rows, _ = rows_of(["ab"], writer([90, 91, END, END], ends=(END, 91)))
    assert rows == [[1, 97, 98, 90, 91]], "the end of a turn ends it, too"


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


def test_prompts_before_one_that_fails_are_continued():
    adapter = writer([90] * 4)
    for texts in (["a", "b", "a" * 30, "c"], (text for text in ("a", "b", None))):
        rows = iter(Continuations(Corpus(texts, adapter, prepend_bos=True), adapter, 4))
        assert [next(rows).tolist(), next(rows).tolist()] == [[1, ord(letter), 90, 90, 90, 90] for letter in "ab"]
        with pytest.raises((InputError, InputTypeError), match=r"leaves no room|inputs\[2\] must be"):
            next(rows)


def test_a_prompt_that_begins_with_the_begin_token_is_that_prompt():
    rows, continuations = rows_of(["\x01ab", "ab"], writer([90] * 4))
    assert rows == [[1, 97, 98, 90, 90, 90, 90]] * 2
    assert continuations.prompt_lengths == {0: 2, 1: 2}


def texts_of(model, prompts, **options):
    """The tokens read of each document, prompt and continuation."""
    result = tle.lens_entropy(model, prompts, sites="embed", max_new_tokens=6, progress=False, include_special=True, **options)
    return [tuple(result.token[result.document == i].tolist()) for i in range(len(prompts))]


@pytest.mark.model
def test_copies_of_a_prompt_are_continued_differently_in_every_group(gpt2):
    texts = texts_of(gpt2, ["the cat"] * 8, temperature=1.0, seed=3)
    assert len(set(texts)) == 8
    assert texts == texts_of(gpt2, ["the cat"] * 8, temperature=1.0, seed=3)
    assert not set(texts) & set(texts_of(gpt2, ["the cat"] * 8, temperature=1.0, seed=4))
    greedy = [texts_of(gpt2, ["the cat", "the dog"] * 2, seed=seed, batch_size=size) for seed, size in ((0, 4), (9, 1))]
    assert greedy[0] == greedy[1]


def test_no_two_groups_share_random_numbers():
    for seed in (0, 1, 2**70):
        seeds = {group_seed(seed, document) % 2**32 for document in range(50_000)}  # all that torch takes on a CPU
        assert len(seeds) == 50_000
        assert len({group_seed(seed, document) for document in (0, 2**31, 2**32 - 1)}) == 3
    assert len({group_seed(seed, document) for seed in range(50) for document in range(50)}) == 2500
    torch.manual_seed(1)
    first = torch.rand(4)
    torch.manual_seed(1 + 2**32)
    assert torch.equal(first, torch.rand(4)), "torch takes more than 32 bits: the mixing may, too"


def test_provenance_holds_the_batch_size_where_text_is_sampled():
    assert described({"temperature": 0.5, "seed": 1}, batch_size=4) == {"temperature": 0.5, "seed": 1, "batch_size": 4}
    assert described({"temperature": np.float32(0.5)}) == {"temperature": 0.5, "batch_size": 16}
    assert described({"temperature": 0.0, "window": None}, batch_size=4) == {"temperature": 0.0}
    assert described({}, batch_size=4) == {}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": -0.1}, InputError, "temperature must be a finite number of at least 0; got -0.1"),
        ({"temperature": math.nan}, InputError, "temperature must be .* got nan"),
        ({"temperature": math.inf}, InputError, "temperature must be .* got inf"),
        ({"temperature": "1"}, InputTypeError, "temperature must be .* got '1'"),
        ({"temperature": None}, InputTypeError, "temperature must be .* got None"),
        ({"temperature": True}, InputTypeError, "temperature must be .* got True"),
        ({"seed": 1.5}, InputTypeError, "seed must be an int of at least 0; got 1.5"),
        ({"seed": -1}, InputError, "seed must be an int of at least 0; got -1"),
    ],
)
def test_temperature_and_seed_are_checked_before_anything_runs(options, error, message):
    for refuse in (lambda: check_sampling(**options), lambda: described(options), lambda: stream(None, None, [], **options)):
        with pytest.raises(error, match=message):
            refuse()
