"""Where tokens settle, on divergences made by hand: the paper's definition word by word, its options, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hand_made import without_rows

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results import LayerDivergence, Provenance
from tl_entropy.sites import expand_sites

NEVER = 7  # embed, five blocks and a part: columns
SITES = expand_sites(("embed", "resid_post", "mlp_out.2"), 5)
STREAM = [i for i, site in enumerate(SITES) if site.name != "mlp_out"]
ROWS = torch.tensor(  # nats; embed, blocks 0 to 4
    [
        [0.6, 0.5, 0.2, 0.5, 0.1, 0.0],  # near in the middle, away, and near again
        [0.1, 0.6, 0.6, 0.6, 0.6, 0.0],  # near at the embedding alone
        [0.6, 0.6, 0.6, 0.6, 0.4, 0.0],
        [0.3, 0.3, 0.3, 0.3, 0.3, 0.0],
    ]
)
DOCUMENT = torch.tensor([0, 0, 0, 4])


def result_of(rows=ROWS, **changes):
    divergence = torch.full((len(rows), len(SITES), 2), 0.01)
    divergence[:, STREAM, 1] = rows
    parts = {
        "divergence": divergence, "agreement": torch.ones(len(rows), len(SITES), dtype=torch.bool), "document": DOCUMENT,
        "position": torch.tensor([0, 1, 2, 0]), "token": torch.zeros(4, dtype=torch.long),
        "output_token": torch.zeros(4, dtype=torch.long), "sites": SITES, "metrics": ("kl", "jsd"), "against": "output",
        "strings": {0: "a"}, "provenance": Provenance("tiny", "abc", "raw", "float32", "cpu"),
    }  # fmt: skip
    return LayerDivergence(**{**parts, **changes})


def by_the_paper(row, g, rho=0.85):
    """Settling layer and whether it is deep, of divergences [layer] of layers 1 to L: equations 4 to 6, word by word."""
    layers = range(1, len(row) + 1)
    smallest = [min(row[:layer]) for layer in layers]
    settles = min(layer for layer in layers if smallest[layer - 1] <= g)
    return settles, settles >= math.ceil(rho * len(row))


def test_a_token_settles_at_the_first_site_of_the_stream_that_is_near():
    result = result_of()
    found = result.settled(0.5, unit="bits")  # 0.347 nats
    assert (found.dtype, found.tolist()) == (torch.int64, [2, 0, 6, 0])
    assert result.settled(0.5, unit="nats").tolist() == [1, 0, 5, 0]
    assert [site and str(site) for site in result.settled_sites(0.5, unit="bits")] == [
        "resid_post.1", "embed", "resid_post.4", "embed",
    ]  # fmt: skip
    assert result.settled(0.0, unit="nats").tolist() == [6] * 4
    assert result.to("bits").settled(0.5, unit="bits").tolist() == [2, 0, 6, 0]


def test_without_the_running_minimum_it_has_to_stay():
    result = result_of()
    assert result.settled(0.5, unit="bits", running_minimum=False).tolist() == [5, 6, 6, 0]


def test_one_that_never_settles():
    part = result_of().select(sites=("embed", "resid_post.0", "resid_post.1"))
    assert part.settled(0.21, unit="nats").tolist() == [2, 0, 3, 3]
    assert part.settled_sites(0.21, unit="nats")[2:] == [None, None]


@pytest.mark.parametrize("g", [0.05, 0.35, 0.5, 0.69])
@pytest.mark.parametrize("rho", [0.2, 0.6, 0.85, 1.0])
def test_the_ratio_is_the_papers(g, rho):
    draw = torch.rand(4, 6, generator=torch.Generator().manual_seed(3)).mul(math.log(2))
    draw[:, -1] = 0
    result = result_of(draw).select(sites="resid_post")
    rows = result.metric("jsd").tolist()
    truth = [by_the_paper(row, g, rho) for row in rows]
    assert result.settled(g, unit="nats").tolist() == [layer - 1 for layer, _ in truth]
    [line] = result.deep_thinking_ratio(rho, threshold=g, unit="nats").to_dict("records")
    deep = [is_deep for _, is_deep in truth]
    assert line["ratio"] == pytest.approx(sum(deep) / 4)
    assert (line["tokens"], line["documents"], line["first_deep"]) == (4, 2, math.ceil(rho * 5))
    each = result.deep_thinking_ratio(rho, threshold=g, unit="nats", by="document")
    assert each["document"].tolist() == [0, 4]
    assert each["ratio"].tolist() == pytest.approx([sum(deep[:3]) / 3, float(deep[3])])
    profile = result.settled_profile(g, unit="nats")
    assert 1 - ([0.0, *profile["mean"]])[math.ceil(rho * 5) - 1] == pytest.approx(line["ratio"])


def test_the_ratio_of_the_algorithm_and_its_error():
    result = result_of()
    [text] = result.deep_thinking_ratio(0.8, unit="bits").to_dict("records")
    [algorithm] = result.deep_thinking_ratio(0.8, unit="bits", deep="1 - rho").to_dict("records")
    assert (text["first_deep"], text["ratio"]) == (4, 0.25)
    assert (algorithm["first_deep"], algorithm["ratio"]) == (1, 0.5)
    # Documents of 3 and 1 tokens, of which 1 and 0 are deep: m = 1/4, residuals 1/4 and -1/4.
    assert text["se"] == pytest.approx(math.sqrt(2 * (2 / 16)) / 4)


def test_a_share_that_is_a_whole_number_of_layers_is_no_rounding_above_it():
    sites = expand_sites("resid_post", 20)
    zeros = torch.zeros(4, 20, 1)
    zeros[:, :16] = 0.6  # all settle at layer 17 = 0.85 * 20
    agreement = torch.ones(4, 20, dtype=torch.bool)
    result = result_of(divergence=zeros, agreement=agreement, sites=sites, metrics=("jsd",))
    assert result.deep_thinking_ratio(0.85, unit="bits")["ratio"][0] == 1.0


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda: result_of().settled(0.5), TypeError, "unit"),
        (lambda: result_of().settled(0.7, unit="nats"), InputError, r"below log 2, .* \(0.693 nats\); got 0.7 nats"),
        (lambda: result_of().settled(-0.1, unit="bits"), InputError, "threshold"),
        (lambda: result_of().settled(True, unit="bits"), InputTypeError, "threshold"),
        (lambda: result_of().settled(0.5, unit="hartleys"), InputError, "unit must be one of"),
        (lambda: result_of().select(metrics="kl").settled(0.5, unit="bits"), InputError, "has kl against output"),
        (lambda: result_of(against="previous").settled(0.5, unit="bits"), InputError, "against previous"),
        (lambda: result_of().select(sites="mlp_out").settled(0.5, unit="bits"), InputError, "state of the residual stream"),
        (lambda: result_of().deep_thinking_ratio(0, unit="bits"), InputError, "rho must be a share"),
        (lambda: result_of().deep_thinking_ratio(85, unit="bits"), InputError, "rho must be a share"),
        (lambda: result_of().deep_thinking_ratio(0.5, unit="bits", deep="2"), InputError, "deep must be one of"),
        (lambda: result_of().deep_thinking_ratio(0.5, unit="bits", by="word"), InputError, "by must be one of"),
        (lambda: result_of().select(layers=[0, 2, 4]).deep_thinking_ratio(unit="bits"), InputError, "layers 0, 2, 4 here"),
        (lambda: result_of().select(layers=[0, 1]).deep_thinking_ratio(unit="bits"), InputError, r"resid_post.1 is not the"),
        (lambda: result_of().select(sites="embed").deep_thinking_ratio(unit="bits"), InputError, "of layers none here"),
        (lambda: without_rows(result_of()).deep_thinking_ratio(unit="bits"), InputError, "no position"),
    ],
)
def test_what_is_refused(ask, error, words):
    with pytest.raises(error, match=words):
        ask()
