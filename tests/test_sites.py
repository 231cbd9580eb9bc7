"""Site names and their order."""

from __future__ import annotations

import numpy as np
import pytest

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.sites import HEAD_SITES, SITE_NAMES, Site, expand_sites


def test_sites_come_in_the_order_of_computation():
    names = [str(site) for site in expand_sites(reversed(SITE_NAMES), 2)]
    assert names[0] == "embed"
    assert names[1:9] == [f"{name}.0" for name in SITE_NAMES[1:]]
    assert names[9:] == [f"{name}.1" for name in SITE_NAMES[1:]]


def test_layers_restrict_and_count_from_the_end():
    assert expand_sites("resid_post", 12, [-1, 0]) == (Site("resid_post", 0), Site("resid_post", 11))
    assert expand_sites([Site("z", -1), "embed"], 3) == (Site("embed", -1), Site("z", 2))


def test_heads_results_come_between_z_and_the_attentions_output():
    assert [site.name for site in expand_sites(["attn_out", "result", "z"], 1)] == ["z", "result", "attn_out"]
    assert {"pattern", "z", "result"} == HEAD_SITES


@pytest.mark.parametrize("name", SITE_NAMES)
def test_text_and_back(name):
    site = Site("embed", -1) if name == "embed" else Site(name, 3)
    assert Site.parse(str(site)) == site


def test_errors():
    for sites, layers, message in (
        (["q"], None, "sites must be one of"),
        ([], None, "empty"),
        (["z"], [2], "layer 2 does not"),
        ("z.2", None, "layer 2 does not"),
        ("resid_post.x", None, "site must be a short name with its layer"),
        ("resid_post.", None, "site must be a short name with its layer"),
        ("embed.0", None, "site must be a short name with its layer"),
    ):
        with pytest.raises(InputError, match=message):
            expand_sites(sites, 2, layers)


@pytest.mark.parametrize("layers", [0, np.int64(0), np.array(0), 1.5, "0", ["0"], [0.0], [True], [None], [[0]]], ids=repr)
def test_layers_that_are_no_sequence_of_ints(layers):
    with pytest.raises(InputTypeError, match=r"layers must be a sequence of ints; got .* such as layers=\[0\]"):
        expand_sites("resid_post", 2, layers)
    if isinstance(layers, list):
        with pytest.raises(InputTypeError, match="layers must be a sequence of ints"):
            expand_sites([Site("resid_post", layers[0])], 2)


def test_layers_of_numpy_become_plain_ints():
    found = expand_sites([Site("z", np.int32(-1)), "resid_post"], 3, np.array([0, 2]))
    assert found == (Site("resid_post", 0), Site("z", 2), Site("resid_post", 2))
    assert {type(site.layer) for site in found} == {int}


def test_single_sites_by_name_whatever_the_layers():
    found = expand_sites(["resid_post.-1", "z.0", Site("embed", 3), "embed"], 3, [1])
    assert found == (Site("embed", -1), Site("z", 0), Site("resid_post", 2))
    assert expand_sites(Site("z", 1), 3) == expand_sites("z.1", 3) == (Site("z", 1),)


@pytest.mark.parametrize("sites", [5, None, 1.5])
def test_sites_that_are_none(sites):
    with pytest.raises(InputTypeError, match="sites must be short names or Sites"):
        expand_sites(sites, 2)


def test_a_site_without_its_layer():
    with pytest.raises(InputError, match=r"such as 'resid_post\.3', or 'embed'; got 'resid_post'"):
        Site.parse("resid_post")
