"""Lenses in general: what they are called, and what is refused before a pass."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.lenses.protocol import check_lens, lens_name
from tl_entropy.lenses.tuned import TunedLens
from tl_entropy.results import Provenance
from tl_entropy.sites import Site

ORIGIN = Provenance(model="gpt2", weights="unknown", processing="raw", dtype="float32", device="cpu")


def shifted(site, rows):
    return rows + 1


def test_names():
    class Named:
        name = "my lens"

        def __call__(self, site, rows):
            return rows

    class Nameless:
        name = ""

        def __call__(self, site, rows):
            return rows

    assert lens_name(None) == "logit lens"
    assert lens_name(shifted) == "shifted"
    assert lens_name(Named()) == "my lens"
    assert lens_name(Nameless()) == "Nameless"
    assert lens_name(TunedLens(torch.zeros(1, 2, 2), torch.zeros(1, 2), ORIGIN)) == "tuned lens of gpt2"


def test_plain_functions_and_none_pass():
    check_lens(None, None, ())
    check_lens(shifted, None, (Site("resid_mid", 0),))


@pytest.mark.parametrize("lens", ["tuned", 3, torch.zeros(2), TunedLens])
def test_what_is_no_function_is_refused(lens):
    with pytest.raises(InputTypeError, match="lens must be a function of a site and its rows"):
        check_lens(lens, None, ())


def test_a_lens_with_a_check_is_asked():
    class Picky:
        def __call__(self, site, rows):
            return rows

        def check(self, adapter, sites):
            raise InputError(f"lens: not {adapter.name} at {sites[0]}")

    with pytest.raises(InputError, match=r"not small at resid_post\.1"):
        check_lens(Picky(), SimpleNamespace(name="small"), (Site("resid_post", 1),))
