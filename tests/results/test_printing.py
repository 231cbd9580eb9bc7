"""How results print: every kind in a notebook and in terminals of any width, and spark lines of every kind of values."""

from __future__ import annotations

import dataclasses
import html
import inspect
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import torch
from hand_made import compared, lens, similarities, surprisal
from hypothesis import given, strategies as st

import tl_entropy as tle
from tl_entropy.errors import counted
from tl_entropy.results.base import Result
from tl_entropy.results.notebook import FOLDED, number, page, spark

FOLDER = Path(__file__).parent / "saved_by_0_5_0"
FILES = {path.stem: path for folder in (FOLDER, FOLDER.with_name("saved_since_0_5_0")) for path in folder.glob("*.safetensors")}
NAMES = [*sorted(FILES), "ModelComparison"]
WITHOUT_LINES = ("SurprisalSummary", "Sensitivity")  # sums have no course, nor has a site of each name
EMPTY = ("br", "circle", "polyline", "meta")


def read(name):
    if name == "TunedLens":
        return tle.load_tuned_lens(FOLDER / f"{name}.safetensors")
    return tle.load(FOLDER / name if name == "ModelComparison" else FILES[name])


class Elements(HTMLParser):
    """All elements with their attributes, and the text; what is opened is closed."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, *tags):
        return [attributes for tag, attributes in self.found if tag in tags]


def vars_of(result, method):
    found = getattr(result, method, None)
    return () if found is None else inspect.signature(found).parameters


def terminal(monkeypatch, width):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))


def test_every_kind_is_here():
    ours = {name for name, kind in Result.kinds.items() if kind.__module__.startswith("tl_entropy.")}
    assert {type(read(name)).__name__ for name in NAMES} == {*ours, "ModelComparison"}


@pytest.mark.thinned
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_every_number_in_the_colours_of_its_page(name):
    result = read(name)
    elements = Elements(result._repr_html_())
    told, table = " ".join(elements.texts), result._table()
    for line in [*result._title(), *([] if table is None else result._notes())]:
        assert line in told
    form = result.printing.get("float_format", "{:.6g}".format)
    for cell in [] if table is None else [*table.index, *table.to_numpy().ravel()]:
        assert (form(cell) if isinstance(cell, float) else str(cell)) in told, cell
    assert {tag for tag, _ in elements.found}.isdisjoint({"script", "style", "link", "img", "iframe"})
    drawn = elements.of("svg", "polyline", "circle")
    assert {shape.get(of) for shape in drawn for of in ("fill", "stroke")} <= {"currentColor", "none", None}
    assert not re.search(r"color:|background|javascript|(?<!xmlns=.)http", result._repr_html_())
    assert all(frame["aria-label"] for frame in elements.of("svg"))
    if table is not None:
        for origin in result._origins():
            assert f"measured: {origin.model} (float32, cpu); {counted(origin.corpus['documents'], 'document')}" in told
        assert result._origins()
        assert (len(elements.of("svg")) > 0) == (name not in WITHOUT_LINES)


@pytest.mark.thinned
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("width", [60, 100])
def test_a_terminal_is_as_wide_as_it_is(name, width, monkeypatch):
    result = read(name)
    whole = repr(result)
    terminal(monkeypatch, width)
    text = repr(result)
    assert max(map(len, text.splitlines())) <= width
    for word in set(re.findall(r"[\w.±%]+", whole)):
        assert word in text, word


@pytest.mark.parametrize("name", NAMES)
def test_errors_are_spoken_of_where_there_are_some(name):
    """Of all documents, and of one alone."""
    result = read(name)
    for some in (result, *([result.select(documents=0)] if "documents" in vars_of(result, "select") else [])):
        table, told = some._table(), "\n".join(some._notes())
        if table is not None and "± standard error over documents" in told and "where one is known" not in told:
            cells = [str(cell) for cell in [*table.index, *table.to_numpy().ravel()]]
            assert any(" ± " in cell for cell in cells), told


def test_a_sensitivity_over_layers_has_a_line_for_each_edit():
    changes, one = torch.tensor([[[1.0], [2.0], [4.0]]]).double().expand(2, 3, 1), torch.ones(1)
    origin = tle.Provenance("tiny", "abc", "raw", "float32", "cpu")
    sites = tuple(f"mlp_out.{layer}" for layer in range(3))
    found = tle.Sensitivity(changes, one.double(), one.long(), ("int8", "int4"), sites, origin)
    assert len(Elements(found._repr_html_()).of("polyline")) == 2


def test_what_is_no_terminal_has_whole_lines():
    assert max(map(len, repr(read("LayerDynamics")).splitlines())) > 150


def test_a_row_a_column_and_its_extremes():
    result = lens(n_layers=3)
    values = result.mean_profile()["mean"].tolist()
    shown = Elements(result._repr_html_())
    rows = re.findall(r"<tr>.*?</tr>", result._repr_html_())
    [row] = [row for row in rows if "<svg" in row]
    cells = [html.unescape(re.sub("<.*?>", "", cell)) for cell in re.findall(r"<td>(.*?)</td>", row)[1:]]
    assert [float(cell.split()[0]) for cell in cells] == pytest.approx(
        [values[0], values[-1], min(values), max(values)], abs=6e-4
    )
    assert [cell.split()[-1] for cell in cells[:2]] == ["embed", "resid_post.2"]
    assert len(shown.of("polyline")) == 1


def test_long_tables_are_folded_and_short_ones_are_not():
    short, long = lens(n_layers=FOLDED - 1), lens(n_layers=FOLDED)
    assert "<details" not in short._repr_html_()
    assert f"<summary>all {FOLDED + 1} rows</summary>" in long._repr_html_()
    assert "resid_post.11" in long._repr_html_()


def test_sites_of_different_kinds_have_lines_of_their_own():
    table = pd.DataFrame({"x": [1.0, 9.0, 2.0, 8.0]}, ["attn_out.0", "resid_post.0", "attn_out.1", "resid_post.1"])
    shown = page(["t"], table, [], [], "rows", {})
    assert re.findall(r'aria-label="(.*?)"', shown) == [
        "x, attn_out, attn_out.0 to attn_out.1", "x, residual stream, resid_post.0 to resid_post.1",
    ]  # fmt: skip


def test_matrices_have_a_line_a_row():
    matrix = similarities(3, 4)
    assert matrix._repr_html_().count("<svg") == 4
    assert similarities(3, 4, against="output")._repr_html_().count("<svg") == 1
    nothing = torch.full((4, 5), math.nan)
    assert "<svg" not in similarities(3, 4, values=nothing)._repr_html_()
    assert similarities(3, 4, values=nothing)._repr_html_().count("nan") == 20


def test_tokens_have_a_line_as_they_are_read():
    result = surprisal(list("abcdefgh"), list("xyz"))
    shown = re.findall(r'aria-label="(.*?)"', result._repr_html_())
    assert shown == ["loss, token by token", "entropy, token by token", "varentropy, token by token"]
    rising = dataclasses.replace(result, surprisal=torch.arange(11.0))
    points = re.search('points="(.*?)"', rising._repr_html_())[1].split()
    assert len(points) == 11
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights, reverse=True)


def test_sources_and_profiles_have_a_line_each_and_a_slope_that_of_its_points():
    shown = {name: re.findall(r'aria-label="(.*?)"', read(name)._repr_html_()) for name in NAMES}
    assert shown["TokenReliance"][0].endswith(", l1, token by token")
    assert shown["TokenCorrelation"] == ["slope, y as x rises"]
    assert shown["PairwiseDistances"][0].endswith(", nearest to farthest")
    assert all(label.endswith(", nearest to farthest, on this map") for label in shown["ProfileEmbedding"])


def test_lines_of_many_tokens_are_of_means():
    drawn = surprisal([f"{i} " for i in range(1000)])._repr_html_()
    assert max(len(points.split()) for points in re.findall('points="(.*?)"', drawn)) <= 60


def test_comparisons_say_what_every_model_was_measured_on():
    assert compared()._repr_html_().count("measured: ") == 2 + 1, "and their distances"


def test_what_others_wrote_is_text():
    table = pd.DataFrame({"<i>": ["<b>1</b>", "2 <u>"]}, ["<script>", "embed"])
    for along in ("rows", "columns", None):
        shown = page(["<h1>"], table, ["<hr>"], [], along, {})
        assert not re.search("<(i|b|u|script|h1|hr)>", shown)
    odd = dataclasses.replace(lens(), provenance=dataclasses.replace(lens().provenance, model='"><b>', settings={"<a>": "<p>"}))
    assert not re.search("<(b|a|p)>", odd._repr_html_())


@pytest.mark.parametrize(
    ("values", "lines", "dots"),
    [
        ([], 0, 0), ([math.nan], 0, 0), ([math.inf, -math.inf], 0, 0), ([3.0], 0, 1), ([1.0, 2.0, 3.0], 1, 1),
        ([2.0, 2.0, 2.0], 1, 1), ([1.0, 2.0, math.nan, 3.0, 1.0], 2, 1), ([1.0, math.nan, 3.0], 0, 2),
        ([1.0, 2.0, math.inf], 1, 1), ([-1e308, 1e308], 1, 1),
    ],
)  # fmt: skip
def test_lines_of_odd_values(values, lines, dots):
    drawn = spark(values)
    assert (drawn.count("<polyline"), drawn.count("<circle")) == (lines, dots)
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_equal_values_are_a_level_line_in_the_middle():
    heights = {point.split(",")[1] for point in re.search('points="(.*?)"', spark([5.0] * 4))[1].split()}
    assert heights == {"9.0"}


def test_a_line_rises_where_the_values_do():
    points = [tuple(map(float, point.split(","))) for point in re.search('points="(.*?)"', spark([1, 3, 2]))[1].split()]
    assert [x for x, _ in points] == [2.5, 60.0, 117.5]
    assert [y for _, y in points] == [15.5, 2.5, 9.0], "down is more on a page"


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=40))
def test_lines_stay_in_their_frame(values):
    for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", " ".join(re.findall('points="(.*?)"', spark(values)))):
        assert 0 <= float(x) <= 120
        assert 0 <= float(y) <= 18


def test_numbers_are_read_as_they_are_printed():
    assert [number(cell) for cell in ("-0.4 ± 0.1", "+2", "97%", "2 unsure", 3, 2.5, "1e-3 x")] == [
        -0.4, 2, 97, 2, 3, 2.5, 1e-3,
    ]  # fmt: skip
    assert all(
        math.isnan(number(cell)) for cell in ("", "nan", "inf ± 1", "resid_post.0 (45%)", "1.2.3", "3rd", None, math.inf)
    )
