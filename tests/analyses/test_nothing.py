"""Where nothing counts: in every function that reads inputs an error with the reason, or a warning."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hand_made import lens
from public import READERS, VARIANTS
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results.base import chosen_from

pytestmark = pytest.mark.model
ALL = READERS | VARIANTS
WITHOUT_POSITIONS = {"entropy_calibration", "EntropyMonitor", "train_tuned_lens"}
WORDS = ["the cat sat on the mat", "dog and cat and dog"]
OF_PREDICTED = (
    "token_surprisal",
    "confidence",
    "sensitivity",
    "unigram_distance",
    "token_reliance",
    "gradient_reliance",
    "conditional_entropy",
)

NOTHING = {
    "no documents": ([], {}, "0 documents, none with a token"),
    "empty ones": (["", ""], {}, "2 documents, none with a token"),
    "a begin token": (["<|endoftext|>"], {}, "1 document, none with a token"),
    "special tokens": (torch.tensor([[0, 0, 0]]), {}, "1 document, and all their tokens are special tokens"),
    "a position": (WORDS, {"positions": [70, -99]}, r"no document has positions 70, -99; the longest has 6 tokens"),
    "a slice": (WORDS, {"positions": slice(6, None)}, "2 documents of up to 6 tokens, and positions=6: are none of them"),
}


@pytest.mark.thinned
@pytest.mark.parametrize("name", sorted(ALL))
def test_nothing_that_counts_is_an_error_with_its_reason(name):
    model = cached_model("gpt2", kinds()[0])
    for inputs, options, reason in NOTHING.values():
        if "positions" in options and name in WITHOUT_POSITIONS:
            continue
        if name.split(",")[0] in OF_PREDICTED:
            reason = reason.replace("2 documents of up to 6 tokens, and positions=6: are none of them", "nothing comes before")
        with pytest.raises(InputError, match=f"inputs hold nothing to measure: .*{reason}") as caught:
            ALL[name](model, inputs, **options)
        assert getattr(caught.value, "partial", None) is None


@pytest.mark.thinned
@pytest.mark.parametrize("name", sorted(ALL.keys() - {"entropy_calibration"}))  # which has words of its own for short ones
def test_documents_and_positions_that_count_nothing_are_warned_of(name):
    model = cached_model("gpt2", kinds()[0])
    inputs = [WORDS[0], torch.tensor([0, 0]), *WORDS * 3]
    with pytest.warns(UserWarning, match=r"nothing counts of 1 document, number 1 \(from 0\); they hold special tokens"):
        ALL[name](model, inputs[:3] if name == "train_tuned_lens" else inputs)  # which stops reading where it has enough
    if name not in WITHOUT_POSITIONS | {"soft_information, centred"}:
        with pytest.warns(UserWarning, match="positions: no document has 70; the longest has 6 tokens"):
            ALL[name](model, WORDS * 4, positions=[0, 2, 3, 4, 70])


@pytest.mark.parametrize("name", OF_PREDICTED)
def test_a_token_that_nothing_predicts(name):
    with pytest.raises(InputError, match="nothing comes before all their tokens to predict them; pass more text, or a BOS"):
        ALL[name](cached_model("gpt2", kinds()[0]), torch.tensor([[7]]), prepend_bos=False)


def test_a_prompt_need_not_count():
    found = tle.lens_entropy(cached_model("gpt2", kinds()[0]), torch.tensor([[0, 0, 0]]), max_new_tokens=3, progress=False)
    assert set(found.position.tolist()) <= {2, 3, 4}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"documents": []}, "documents is empty; choose from 0, 1, 2, 3"),
        ({"positions": ()}, "positions must name at least one position; got none"),
        ({"orders": []}, "orders is empty; choose from 1.0"),
        ({"positions": slice(9, None)}, r"documents=None and positions=slice\(9, None, None\) leave nothing of this result"),
        ({"documents": 2, "positions": 4}, "documents=2 and positions=4 leave nothing of this result"),
    ],
)
def test_a_part_of_a_result_holds_something(asked, message):
    with pytest.raises(InputError, match=message):
        lens().select(**asked)


def test_a_slice_of_documents_is_refused_by_name():
    for asked in (slice(0, 2), True, [True, False], torch.tensor([True]), None, [None]):
        with pytest.raises(InputTypeError, match="documents must be one or several of 0, 1, 2, 3; got"):
            chosen_from("documents", asked, range(4))
    for asked in (2, [2], torch.tensor(2), [torch.tensor(2)], np.int64(2)):
        assert chosen_from("documents", asked, range(4)) == [2]
    for asked in (2, Fraction(2), Decimal(2), 2.0, np.array([2])):
        assert lens().select(documents=asked).documents == (2,)
        assert lens().tokens(asked) == lens().select(documents=2).tokens()


@pytest.mark.parametrize("asked", [4, -1, True, "1", math.nan])
def test_tokens_of_a_document_that_is_not_there_are_none(asked):
    with pytest.raises((InputError, InputTypeError), match="documents"):
        lens().tokens(asked)
