"""Site names and their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tl_entropy.capture.hooks import hook_name
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.sites import HEAD_SITES, SITE_NAMES, Site, expand_sites, layers_at


def test_sites_come_in_the_order_of_computation():
    names = [str(site) for site in expand_sites(reversed(SITE_NAMES), 2)]
    assert names[0] == "embed"
    assert names[1:10] == [f"{name}.0" for name in SITE_NAMES[1:]]
    assert names[10:] == [f"{name}.1" for name in SITE_NAMES[1:]]


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
        ("resid_post.x", None, "sites must be a short name with its layer"),
        ("resid_post.", None, "sites must be a short name with its layer"),
        ("embed.0", None, "sites must be a short name with its layer"),
    ):
        with pytest.raises(InputError, match=message):
            expand_sites(sites, 2, layers)


@pytest.mark.parametrize("layers", [1.5, "0", ["0"], [0.0], [True], [None], [[0]], True, slice("a"), slice(0, 2, 0)], ids=repr)
def test_layers_that_are_no_ints(layers):
    with pytest.raises(InputTypeError, match=r"layers must be ints, .* slice.*; got "):
        expand_sites("resid_post", 2, layers)
    if isinstance(layers, list):
        with pytest.raises(InputTypeError, match="layers must be ints"):
            expand_sites([Site("resid_post", layers[0])], 2)


@pytest.mark.parametrize("layers", [-1, np.int64(-1), np.array(-1), torch.tensor(-1), [-1], slice(-1, None)], ids=repr)
def test_one_layer(layers):
    assert expand_sites(("embed", "resid_post"), 3, layers) == (Site("embed", -1), Site("resid_post", 2))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (slice(None), [0, 1, 2, 3, 4, 5]),
        (slice(None, None, 2), [0, 2, 4, 5]),
        (slice(1, None, 2), [1, 3, 5]),
        (slice(None, None, 4), [0, 4, 5]),
        (slice(2, None, 99), [2, 5]),
        (slice(None, -1, 2), [0, 2, 4]),
        (slice(None, 6, 2), [0, 2, 4]),
        (slice(None, None, -2), [5, 3, 1]),
        (slice(-2, None), [4, 5]),
    ],
    ids=repr,
)
def test_a_stride_that_runs_to_the_end_keeps_the_last_layer(asked, found):
    assert layers_at(asked, range(6)) == found


def test_layers_of_what_has_not_all():
    there = [0, 2, 5]
    assert layers_at(-1, there) == [5]
    assert layers_at(slice(1, None), there) == [2, 5]
    assert layers_at([-6, 2], there) == [0, 2]
    for asked, message in (
        (-2, r"layer -2 does not exist \(counted from the last, it is 4\); this result has layers 0, 2, 5$"),
        (1, "layer 1 does not exist; this result has layers 0, 2, 5$"),
        (slice(3, 5), r"layers is empty: slice\(3, 5, None\) means none; this result has layers 0, 2, 5"),
        ([], "layers is empty; leave it out for all: this result has layers 0, 2, 5"),
    ):
        with pytest.raises(InputError, match=message):
            layers_at(asked, there, "this result")
    for asked in (0, -1, slice(None)):
        with pytest.raises(InputError, match="this result has no layers"):
            layers_at(asked, [], "this result")


@pytest.mark.parametrize("site", [Site(name, layer) for name in SITE_NAMES[1:] for layer in (0, 3, -1)], ids=str)
def test_one_grammar(site):
    """Text, TransformerLens's name of the hook (of either stack, and however it calls attention) and the site are one place."""
    hook = hook_name(site)
    names = (site, str(site), hook, f"decoder_{hook}", hook.replace(".attn.", ".self_attn."))
    assert {Site.parse(name) for name in names} == {site}
    assert expand_sites([hook], 4) == expand_sites(str(site), 4) == (site.at(range(4)),)
    assert site.at(range(4)).layer == site.layer % 4


def test_what_names_no_place():
    for place, error, message in (
        ("hook_embed", InputError, "against: hook_embed lacks the positions; the stream that enters block 0 is 'embed'"),
        ("blocks.1.hook_mlp_in", InputError, "against must be one of 'embed', .*; got 'mlp_in'"),
        ("blocks.x.hook_resid_post", InputError, "against must be one of 'embed', .*; got 'blocks'"),
        (3, InputTypeError, "against must be one site, such as 'resid_post.3' or .*; got 3"),
        (("z", 1), InputTypeError, "against must be one site"),
        (Site("z", "1"), InputTypeError, "layers must be ints"),
    ):
        with pytest.raises(error, match=message):
            Site.parse(place, "against")


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
    with pytest.raises(InputError, match=r"such as 'resid_post\.3' \('resid_post\.-1' in the last\).* got 'resid_post'"):
        Site.parse("resid_post")
