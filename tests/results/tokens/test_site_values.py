"""Results with quantities of every token at every site: parts of them, means over spans, and tables."""

from __future__ import annotations

import pytest
import torch
from hand_made import origin

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results.tokens.site_values import CONFIDENCE, Confidence, units_of
from tl_entropy.sites import Site

PIECES = [["the", " cat", " sat"], ["a", " d", "og"]]


def made(**changes):
    """Two documents of three tokens at two sites; the value at token i, site s and quantity q is i + 10 s + 100 q."""
    measured = tuple(CONFIDENCE)
    pieces = [piece for document in PIECES for piece in document]
    ends = [len("".join(document[: i + 1])) for document in PIECES for i in range(3)]
    values = torch.arange(6.0)[:, None, None] + 10 * torch.arange(2)[:, None] + 100 * torch.arange(len(measured))
    parts = {
        "values": values, "sites": (Site("embed", -1), Site("resid_post", 0)), "measured": measured,
        "units": units_of(measured),
        "document": torch.arange(2).repeat_interleave(3), "position": torch.arange(3).repeat(2), "token": torch.arange(6),
        "span": torch.tensor([(end - len(piece), end) for end, piece in zip(ends, pieces, strict=True)]),
        "texts": {i: "".join(document) for i, document in enumerate(PIECES)}, "lengths": {0: 3, 1: 3},
        "strings": dict(enumerate(pieces)), "provenance": origin("tiny"),
    }  # fmt: skip
    return Confidence(**{**parts, **changes})


def test_means_of_words_of_given_spans_and_of_whole_documents():
    words = made().of_spans(r"\w+")
    assert words["text"].tolist() == ["the", "cat", "sat", "a", "dog"]
    assert words["tokens"].tolist() == [1, 1, 1, 1, 2]
    assert words["self_certainty at embed"].tolist() == [0, 1, 2, 3, 4.5]
    assert words["z at resid_post.0"].tolist() == [410, 411, 412, 413, 414.5]
    given = made().of_spans([(1, 2, 5), (0, 0, 4)])  # the space is a character of " cat"
    assert given[["document", "start", "end", "text", "tokens"]].to_numpy().tolist() == [
        [1, 2, 5, "dog", 2],
        [0, 0, 4, "the ", 2],
    ]
    whole = made().of_spans(window=2)
    assert whole["margin at embed"].tolist() == [101, 104]
    assert whole["lowest margin at embed"].tolist() == [100.5, 103.5]
    assert made().of_spans(window=9)["lowest z at embed"].tolist() == [401, 404]
    assert made(texts={}).of_spans()["start"].tolist() == [-1, -1]
    assert len(made().of_spans("nothing")) == 0
    beyond = made().of_spans([(0, 90, 95), (1, 2, 5)], window=2)  # a line for each that was given
    assert beyond["tokens"].tolist() == [0, 2]
    assert beyond["lowest z at embed"].isna().tolist() == [True, False]


def test_parts_units_and_tables():
    result = made()
    part = result.select(sites="resid_post", quantities=("z", "margin"), documents=1, positions=[0, 2])
    assert (part.measured, part.units, part.sites) == (("margin", "z"), ("", ""), (Site("resid_post", 0),))
    assert part.values.flatten().tolist() == [113, 413, 115, 415]
    assert list(part.columns()) == ["margin", "z"]
    bits = result.to("bits")
    assert bits.units == ("bits", "", "bits", "", "", "")
    torch.testing.assert_close(bits.to("nats").values, result.values)
    assert bits.values[1, 0, 0].item() == pytest.approx(1.442695)
    frame = result.to_pandas()
    assert list(frame.columns[:7]) == ["document", "position", "start", "end", "token", "site", "layer"]
    assert frame.iloc[3][["token", "site", "margin"]].tolist() == [" cat", "resid_post", 111]
    profile = result.mean_profile("margin")
    assert profile["mean"].tolist() == [102.5, 112.5]
    assert result.per_document()["embed", "z"].tolist() == [401, 404]
    assert result.deviation("margin").tolist() == pytest.approx([1.7078, 1.7078], abs=1e-4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r: r.of_spans("("), InputError, "spans must be a regular expression"),
        (lambda r: r.of_spans([(0, 1)]), InputTypeError, "spans must be a regular expression, or"),
        (lambda r: r.of_spans([(9, 0, 1)]), InputError, "spans: 9 not in this result"),
        (lambda r: r.of_spans([(0, 3, 3)]), InputError, "0 <= start < end, characters of the text; got 3 and 3"),
        (lambda r: r.of_spans(window=0), InputError, "window must be"),
        (lambda r: r.select(quantities="entropy"), InputError, "quantities: entropy not in this result"),
        (lambda r: r.mean_profile("entropy"), InputError, "quantities: entropy not in this result"),
        (lambda r: tle.plots.by_layer(r, quantity="entropy"), InputError, "quantity: entropy not in this result"),
        (lambda r: tle.plots.by_layer({"a": r, "b": r.to("bits")}), InputError, "bring them to one unit"),
        (lambda r: tle.plots.by_layer(3), InputTypeError, "results of confidence or unigram_distance; got int"),
    ],
)
def test_what_is_not_there_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call(made())
    with pytest.raises(InputError, match="texts, which are not known of 0, 1"):
        made(texts={}).of_spans(r"\w+")


def test_the_figure_draws_means_of_the_quantity_with_their_errors():
    ax = tle.plots.by_layer({"one": made(), "other": made(values=made().values + 1)}, quantity="margin")
    assert [line.get_ydata().tolist() for line in ax.lines] == [[102.5, 112.5], [103.5, 113.5]]
    assert ax.lines[0].get_xdata().tolist() == [-1, 0]
    assert ax.get_ylabel() == "Margin of the top token"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "other"]
    assert tle.plots.by_layer(made().to("bits")).get_ylabel() == "Self-certainty (bits)"
