"""Values as states and as files, and back: what comes back is what went in, and what no state can hold is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from tl_entropy.analyses.saving import joined, split
from tl_entropy.errors import InputTypeError
from tl_entropy.sites import Site
from tl_entropy.state import decoded, encoded

VALUES = [
    None, True, 3, 0.5, "a", [1, "b"], (1, (2,)), {1, 2}, frozenset("a"), range(2, 9, 3), slice(None, 4), torch.bfloat16,
    Site("resid_post", 3), Counter("aab"), {"a": 1}, {3: "c", (1, 2): "d"}, {"$": "no kind"}, float("inf"), -float("inf"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_what_comes_back_is_what_went_in(value):
    found = decoded(joined(*split(encoded({"of": [value]}))))["of"][0]
    assert found == value
    assert type(found) is type(value)


def test_numbers_of_numpy_are_plain_ones():
    assert encoded([np.int64(3), np.float32(0.5), np.True_]) == [3, 0.5, True]


def test_a_nan_stays_one():
    assert np.isnan(joined(*split(float("nan"))))


def test_tensors_are_kept_once_and_parts_of_one_each_by_itself():
    whole = torch.arange(6.0)
    text, tensors = split({"one": whole, "again": whole, "part": whole[:3]})
    assert len(tensors) == 2
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors.values()}) == 2
    back = joined(text, tensors)
    assert torch.equal(back["again"], whole)
    assert torch.equal(back["part"], whole[:3])


def test_what_no_state_holds_is_refused():
    with pytest.raises(InputTypeError, match="a state cannot hold object"):
        encoded({"a": [object()]})


@pytest.mark.parametrize("state", [{"$": "later", "of": 1}, {"$": "kept", "kind": "Later", "of": {}}])
def test_a_kind_that_is_not_known_is_named(state):
    with pytest.raises(InputTypeError, match=r"a state holds '[lL]ater', which this tl_entropy does not know"):
        decoded(state)
