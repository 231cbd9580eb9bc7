"""The page of tokens: its text is the document's, its colours and numbers are the result's, and hostile text stays text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import html
import json
import math
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import hand_made
import numpy as np
import pytest
import torch
from browser import dom, needs_browser, with_script
from hypothesis import given, strategies as st

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional.tokens.characters import covering_spans
from tl_entropy.plots.tokens.page import TokenPage, tokens
from tl_entropy.plots.tokens.page_parts import LEVELS, json_text, text_markup
from tl_entropy.plots.tokens.parts import OUTSIDE, colours, places, scale, shown, text_pieces, ticks
from tl_entropy.results.base import fields_at

PLAIN = ["The", " cat", " sat", " on", "\n", "    the", " mat", "."]
HEBREW = ["שלום", " עולם", ",", " זה", " Engl", "ish", " 42", "."]
ARABIC = ["مرحبا", " بال", "عالم", "."]
ODD = [
    "👩\u200d👩\u200d👧",
    " é",
    "",
    " e\u0301",
    "🇳🇿",
    "",
    "",
    "",
    "\u200b",
    "\t",
    "\r\n",
    "\u2028",
    "nul\0",
    "\x1b[0m",
    "\n\n",
]
HOSTILE = [
    "<script>window.hacked=1</script>", "</script>", "<!--", '"><img src=x onerror=window.hacked=1>', "&amp;", "]]>", "\\u003c",
    "'", "javascript:window.hacked=1", "$x$", "</style>", "</title>",
]  # fmt: skip
DOCUMENTS = (PLAIN, HEBREW, ARABIC, ODD, HOSTILE)


def held(text):
    """What a page can hold of a text."""
    return text.replace("\0", "\ufffd")


class Page(HTMLParser):
    """The elements of a page: tokens, texts of documents, marks, tags, scripts and styles."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.tokens, self.documents, self.scripts, self.style, self.radios = [], [], [], {}, [], "", []
        self.feed(page.html)
        self.close()
        self.data = json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "data"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if tag == "input":
            self.radios.append(attributes)
        if tag in ("meta", "input"):
            return
        self.open.append((tag, attributes))
        classes = attributes.get("class", "").split()
        if "text" in classes:
            self.documents[int(re.fullmatch(r"document-(\d+)", self._section())[1])] = ""
        if "t" in classes:
            self.tokens.append({"text": "", "marks": [], "look": classes[1:], "title": attributes["title"]})
        if "data-m" in attributes and self._inside("t"):
            self.tokens[-1]["marks"].append(attributes["data-m"])
        if tag == "script":
            self.scripts.append((attributes, ""))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        if self._inside("text"):
            self.documents[int(self._section().removeprefix("document-"))] += text
        if self._inside("t"):
            self.tokens[-1]["text"] += text
        if self.open and self.open[-1][0] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + text)
        if self.open and self.open[-1][0] == "style":
            self.style += text

    def _inside(self, name):
        return any(name in attributes.get("class", "").split() for _, attributes in self.open)

    def _section(self):
        return next(attributes["id"] for tag, attributes in self.open if tag == "section")


def rgb(code):
    code = code if len(code) == 7 else "#" + "".join(2 * c for c in code[1:])
    return np.array([int(code[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def luminance(colour):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(rgb(one)), luminance(rgb(other))))
    return (high + 0.05) / (low + 0.05)


def variables(css):
    return dict(re.findall(r"--([a-z]+):(#[0-9a-f]+)", css))


@pytest.fixture(scope="module")
def result():
    return hand_made.surprisal(*DOCUMENTS, names={0: "cat.txt", 4: "<i>hostile</i>"})


def test_the_text_of_the_page_is_the_documents_text(result):
    page = tokens(result)
    assert "\r" not in page.html, "which a browser would read as a line feed"
    page = Page(page)
    assert page.documents == {number: held(text) for number, text in result.texts.items()}
    assert [token["text"] for token in page.tokens] == [held(piece) for pieces in DOCUMENTS for piece in pieces]


def test_marks_show_what_would_not_be_seen(result):
    marks = {token["text"]: token["marks"] for token in Page(tokens(result)).tokens}
    assert marks["\n"] == ["↵"]
    assert marks["\n\n"] == ["↵", "↵"]
    assert marks["\r\n"] == ["\\r", "↵"]
    assert marks[""] == ["·"]  # shares a character with the token before
    assert marks["\u200b"] == ["·"]
    assert marks["\u2028"] == ["\\u2028"]
    assert marks[" cat"] == marks["\t"] == marks[" e\u0301"] == []


def test_hostile_text_makes_no_markup(result):
    page = Page(tokens(result, title="</title><script>window.hacked=1</script>"))
    assert "i" not in {tag for tag, _ in page.tags}
    inside = {tag for tag, _ in page.tags[[tag for tag, _ in page.tags].index("main") :]}
    assert inside == {"main", "section", "h2", "small", "div", "span", "b", "script"}
    assert len(page.scripts) == 2
    assert all("onerror" not in attributes and "src" not in attributes for _, attributes in page.tags)
    assert not page.open


def test_only_the_pages_own_script_may_run_and_nothing_is_fetched():
    page = tokens(hand_made.surprisal(PLAIN))
    for word in ("http://", "https://", "url(", "@import", "src=", "href=", "innerHTML", "eval("):
        assert word not in page.html, word
    parsed = Page(page)
    policy = next(a["content"] for tag, a in parsed.tags if tag == "meta" and "content" in a and "default-src" in a["content"])
    digest = base64.b64encode(hashlib.sha256(parsed.scripts[-1][1].encode()).digest()).decode()
    assert "default-src 'none'" in policy
    assert re.search("script-src ([^;]*)", policy)[1] == f"'sha256-{digest}'"


def test_data_for_the_script_is_the_result(result):
    page = Page(tokens(result))
    data = page.data
    assert [data["ids"][i] for i in data["token"]] == result.token.tolist()
    assert data["position"] == result.position.tolist()
    assert [quantity["name"] for quantity in data["quantities"]] == list(result.columns())
    for quantity, column in zip(data["quantities"], result.columns().values(), strict=True):
        np.testing.assert_allclose(quantity["values"], column.values.numpy(), rtol=6e-4)
        assert quantity["unit"] == column.unit
        assert quantity["about"] == column.about
    (top,) = data["tops"]
    assert [data["ids"][i] for i in top["token"]] == result.top_tokens.flatten().tolist()
    np.testing.assert_allclose(top["p"], result.top_log_probs.exp().flatten(), rtol=6e-3)
    assert data["strings"][data["token"][4]] == "↵"


def test_each_token_has_the_colour_and_the_value_of_its_row():
    result = hand_made.surprisal(PLAIN, surprisal=torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, float("nan"), float("inf"), 0.5]))
    page = Page(tokens(result))
    looks = [token["look"] for token in page.tokens]
    assert looks == [[f"s{LEVELS[level]}"] if level is not None else [] for level in (0, 15, 30, 45, 60, None, 60, 8)]
    values = ["0 nats", "1 nats", "2 nats", "3 nats", "4 nats", "– nats", "∞ nats", "0.5 nats"]
    assert [token["title"] for token in page.tokens] == values
    surprisal = page.data["quantities"][0]
    assert surprisal["values"] == [0, 1, 2, 3, 4, None, "∞", 0.5]
    assert surprisal["ticks"][0] == [0, "0"]
    assert surprisal["ticks"][-1] == [1, "≥4"]


def test_scales_of_the_quantities():
    cost = torch.tensor([1.0, 2.0, 3.0, 8.0], dtype=torch.float64)
    entropy = torch.tensor([1.0, 4.0, 1.0, 2.0], dtype=torch.float64)
    result = hand_made.surprisal(["a", "b", "c", "d"], surprisal=cost, entropy=entropy, rank=torch.tensor([0, 1, 99, 12345]))
    by_name = {quantity["name"]: quantity for quantity in Page(tokens(result, of="rank")).data["quantities"]}
    assert by_name["excess"]["kind"] == "d"
    assert [LEVELS.index(c) for c in by_name["excess"]["levels"]] == [30, 20, 40, 60]  # 0, -2, 2, 6 of ±6
    assert by_name["excess"]["ticks"][0] == [0, "−6"]
    assert [0.5, "0"] in by_name["excess"]["ticks"]
    level = [round(60 * math.log1p(rank) / math.log1p(12345)) for rank in (0, 1, 99, 12345)]
    assert [LEVELS.index(c) for c in by_name["rank"]["levels"]] == level
    assert by_name["rank"]["values"] == [0, 1, 99, 12345]
    assert by_name["rank"]["scale"] == "logarithmic scale"
    assert by_name["rank"]["ticks"][-1] == [1, "12,345"]
    assert by_name["surprisal"]["kind"] == "s"


def test_quantity_shown_first_and_the_ends_of_its_scale(result):
    page = Page(tokens(result, of="entropy", vmin=0.5, vmax=1.0))
    assert [radio["aria-label"] for radio in page.radios if "checked" in radio] == ["entropy"]
    entropy = page.data["quantities"][1]
    assert entropy["ticks"][0] == [0, "≤0.5"]
    assert entropy["ticks"][-1] == [1, "≥1"]
    expected = np.round(60 * np.clip((result.entropy.numpy() - 0.5) / 0.5, 0, 1)).astype(int)
    assert [token["look"] for token in page.tokens] == [[f"s{LEVELS[i]}"] for i in expected]
    assert page.data["quantities"][0]["ticks"][0] == [0, "0"], "the other quantities have scales of their own"


def test_documents_share_a_scale_and_can_be_chosen(result):
    first = result.surprisal[result.document == 0]
    page = Page(tokens(result))
    expected = np.round(60 * (first / result.surprisal.max()).numpy()).astype(int)
    assert [LEVELS.index(token["look"][0][1]) for token in page.tokens[: len(PLAIN)]] == expected.tolist()
    part = Page(tokens(result, documents=[0, 2]))
    assert list(part.documents) == [0, 2]
    assert len(part.data["token"]) == len(PLAIN) + len(ARABIC)


def test_text_outside_the_tokens_of_a_result_is_plain(result):
    part = result.select(documents=[0, 3], positions=[1, 4, 6])
    page = Page(tokens(part))
    assert page.documents == {number: held(result.texts[number]) for number in (0, 3)}
    # The third byte of a flag still shows the flag, since the token that it would be shown with is not in the result.
    assert [token["text"] for token in page.tokens] == [" cat", "\n", " mat", " é", "🇳🇿", ""]


def test_tokens_without_a_text_are_shown_as_decoded():
    result = hand_made.surprisal(PLAIN)
    unknown = dataclasses.replace(result, texts={}, span=torch.full_like(result.span, -1))
    assert Page(tokens(unknown)).documents == {0: "".join(PLAIN)}
    gap = unknown.select(positions=[0, 1, 4])
    assert Page(tokens(gap)).documents == {0: "The cat … \n"}


def test_several_results_of_the_same_tokens():
    one, other = (hand_made.surprisal(PLAIN, HEBREW, seed=seed, model=f"m{seed}") for seed in (1, 2))
    page = Page(tokens({"one": one, "<other>": other}, of="<other>: entropy"))
    assert page.data["results"] == ["one", "<other>"]
    assert [radio["aria-label"] for radio in page.radios if "checked" in radio] == ["<other>: entropy"]
    assert len(page.data["tops"]) == 2
    most = max(one.entropy.max(), other.entropy.max())
    levels = {quantity["name"]: [LEVELS.index(c) for c in quantity["levels"]] for quantity in page.data["quantities"]}
    for name, part in (("one", one), ("<other>", other)):
        assert levels[f"{name}: entropy"] == (60 * part.entropy / most).round().int().tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position": torch.arange(8) + 1}, "position"),
        ({"token": torch.arange(8).flip(0)}, "token"),
        ({"span": torch.zeros(8, 2, dtype=torch.long)}, "span"),
    ],
)
def test_results_of_different_tokens_are_refused(change, message):
    one = hand_made.surprisal(PLAIN)
    with pytest.raises(InputError, match=rf"'a' and 'b' are not of the same tokens \(they differ in {message}\)"):
        tokens({"a": one, "b": dataclasses.replace(one, **change)})


def test_refusals(result):
    one = hand_made.surprisal(PLAIN)
    with pytest.raises(InputError, match="surprisal is in nats and in bits"):
        tokens({"a": one, "b": one.to("bits")})
    with pytest.raises(InputError, match="empty mapping"):
        tokens({})
    with pytest.raises(InputTypeError, match="got str"):
        tokens("text")
    with pytest.raises(InputTypeError, match="got LensEntropy"):
        tokens({"a": hand_made.lens()})
    with pytest.raises(InputError, match=r"of must be one of 'surprisal'.*got 'cost'"):
        tokens(result, of="cost")
    with pytest.raises(InputError, match="documents: 9 not in this result"):
        tokens(result, documents=9)
    with pytest.raises(InputError, match="vmin must be less than vmax"):
        tokens(result, vmin=3, vmax=2)
    with pytest.raises(InputError, match="vmax must be a finite number"):
        tokens(result, vmax=math.inf)
    with pytest.raises(InputTypeError, match="vmin must be a finite number; got True"):
        tokens(result, vmin=True)
    with pytest.raises(InputError, match=r"cmap must be the name .* got 'nonsense'"):
        tokens(result, cmap="nonsense")
    nothing = dataclasses.replace(one, **fields_at(one, row=[]))
    with pytest.raises(InputError, match="no token to show"):
        tokens(nothing)


@pytest.mark.parametrize("cmap", ["viridis", "magma", "Greys", "coolwarm", "jet"])
def test_text_is_readable_on_every_colour_of_light_and_dark_pages(cmap):
    css = Page(tokens(hand_made.surprisal(PLAIN), cmap=cmap)).style
    light, dark = css.split("@media (prefers-color-scheme:dark)")
    for theme in (light, dark):
        cells = re.findall(r"\.([sd])(\w)\{background:(#[0-9a-f]{6});color:(#[0-9a-f]{3})\}", theme)
        assert [kind + name for kind, name, *_ in cells] == [kind + name for kind in "sd" for name in LEVELS]
        assert min(contrast(background, ink) for *_, background, ink in cells) >= 4.5
        colour = variables(theme)
        for text, background in (("ink", "page"), ("soft", "page"), ("soft", "raised"), ("ink", "raised"), ("on", "accent")):
            assert contrast(colour[text], colour[background]) >= 4.5, (text, background)
        assert contrast(colour["ink"], colour["line"]) >= 4.5  # bars behind the likeliest tokens


@pytest.mark.parametrize("dark", [False, True])
def test_lightness_tells_the_order_and_low_values_are_near_the_page(dark):
    for cmap in ("viridis", "viridis_r", "cividis"):
        steps = np.diff([luminance(colour) for colour in colours(cmap, 61, both_signs=False, dark=dark)])
        assert (steps > 0).all() if dark else (steps < 0).all()
    both = colours("viridis", 61, both_signs=True, dark=dark)
    away = np.abs(both - both[30]).sum(1)
    assert away[30] == 0
    assert (np.diff(away[:31]) < 0).all()
    assert (np.diff(away[30:]) > 0).all()


def test_scale_ends():
    values = np.array([-2.0, 1.0, 6.0, np.nan, np.inf])
    assert (scale("x", values).vmin, scale("x", values).vmax) == (-6, 6)
    assert (scale("x", values, vmax=3).vmin, scale("x", values, vmax=3).vmax) == (-3, 3)
    assert (scale("x", values, vmin=-1).vmin, scale("x", values, vmin=-1).vmax) == (-1, 1)
    np.testing.assert_allclose(places(scale("x", values, -2, 6), values), [0, 0.5 + 0.5 / 6, 1, np.nan, 1])
    assert (scale("x", np.zeros(3)).vmin, scale("x", np.zeros(3)).vmax) == (0, 1)
    assert (scale("x", np.full(3, np.nan)).vmin, scale("x", np.full(3, np.nan)).vmax) == (0, 1)
    assert (scale("x", np.array([3.0, 4.0])).vmin, scale("x", np.array([3.0, 4.0])).vmax) == (0, 4)
    assert (scale("x", np.array([-3.0, -1.0])).vmin, scale("x", np.array([-3.0, -1.0])).vmax) == (-3, 3)


def test_numbers_on_a_scale_keep_apart():
    for values in ([0.0, 14.6], [-8.7, 3.0], [0.0, 0.944], [0.0, 1e-4]):
        norm = scale("x", np.array(values))
        where = [place for place, _ in ticks(norm, np.array(values))]
        assert where[0] == 0
        assert where[-1] == 1
        assert (np.diff(where) >= 0.2).all()
    assert [label for _, label in ticks(scale("rank", np.array([0.0, 40000.0])), np.array([0.0]))] == [
        "0", "10", "100", "1,000", "40,000",
    ]  # fmt: skip


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("<>&\"'\r\n\t\0\u2028\u200b\ufeff"))))
def test_any_text_comes_back_from_markup_and_json(text):
    page = type("Any", (), {})()
    page.html = (
        f'<section id="document-0"><div class="text"><span class="t" title="">{text_markup(text)}</span></div></section>'
        f'<script id="data">{json_text({"text": text})}</script>'
    )
    parsed = Page(page)
    assert (
        parsed.documents[0]
        == parsed.tokens[0]["text"]
        == "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in held(text))
    )
    assert parsed.data == {"text": text}


@given(st.data())
def test_pieces_are_the_whole_text_in_its_order(data):
    text = data.draw(st.text(min_size=1, max_size=20))
    starts = sorted(data.draw(st.lists(st.integers(0, len(text)), min_size=1, max_size=8)))
    spans = [(start, data.draw(st.integers(start, len(text)))) for start in starts]
    if data.draw(st.booleans()):
        spans = covering_spans(torch.tensor(spans), text).tolist()
    n = len(spans)
    result = hand_made.surprisal(["a"] * n, span=torch.tensor(spans), texts={0: text})
    pieces = text_pieces(result, 0)
    assert "".join(piece for _, piece in pieces) == text
    assert [row for row, _ in pieces if row != OUTSIDE] == list(range(n))
    assert all(piece for row, piece in pieces if row == OUTSIDE)


def test_numbers_as_people_read_them():
    values = (0.0, 12345.0, 1234.5678, 0.123456, -2.5, -4.973e-5, 1e-100, math.nan, -math.inf)
    read = ["0", "12,345", "1,235", "0.1235", "−2.5", "−4.97e−5", "1.00e−100", "–", "−∞"]
    assert [shown(x) for x in values] == read


def test_header_says_what_is_shown(result):
    page = tokens(result.to("bits"), title="A & B")
    assert "<h1>A &amp; B</h1>" in page.html
    assert f"tiny · {result.n_tokens} tokens · 5 documents · bits" in page.html
    assert "cat.txt" in page.html
    assert "&lt;i&gt;hostile&lt;/i&gt;" in page.html
    alone = tokens(hand_made.surprisal(["a"]))
    assert "<h1>tiny</h1>" in alone.html
    assert "1 token ·" in alone.html
    assert "<h2" not in alone.html


def test_tokens_that_the_model_wrote_are_marked():
    written = torch.tensor([False] * 5 + [True] * 3)
    page = tokens(hand_made.surprisal(PLAIN, generated=written))
    assert ["g" in token["look"] for token in Page(page).tokens] == written.tolist()
    assert Page(page).data["generated"] == "00000111"
    assert "written by the model" in page.html.split("<script")[0]
    assert "written by the model" not in tokens(hand_made.surprisal(PLAIN)).html.split("<script")[0]


def test_without_likeliest_tokens_there_is_no_list_of_them():
    assert Page(tokens(hand_made.surprisal(PLAIN, top_k=0))).data["tops"] == [None]
    assert Page(tokens(hand_made.surprisal(PLAIN, top_tokens=None, top_log_probs=None))).data["tops"] == [None]


def test_a_token_costs_less_than_300_bytes():
    pieces = [" word", " other", ",", "\n", " supercali"] * 400
    small = len(tokens(hand_made.surprisal(pieces[:5], top_k=0)).html.encode())
    page = tokens(hand_made.surprisal(pieces, top_k=0))
    assert (len(page.html.encode()) - small) / len(pieces) < 200
    assert f"{len(pieces)} tokens" in repr(page)
    assert small < 30_000


def test_saving(tmp_path, monkeypatch, result):
    page = tokens(result)
    place = page.save(tmp_path / "new" / "page.html")
    assert place.read_bytes() == page.html.encode()
    assert [path.name for path in place.parent.iterdir()] == ["page.html"]

    def fail(*_):
        raise OSError("no such luck")

    monkeypatch.setattr(type(place), "replace", fail)
    with pytest.raises(OSError, match="no such luck"):
        TokenPage("other", 1).save(place)
    assert place.read_bytes() == page.html.encode()
    assert [path.name for path in place.parent.iterdir()] == ["page.html"]


def test_a_notebook_gets_a_frame_of_its_own(result):
    page = tokens(result)
    frame = page._repr_html_()
    assert html.unescape(re.search('srcdoc="([^"]*)"', frame)[1]) == page.html
    assert 'sandbox="allow-scripts"' in frame
    assert re.search(r"height:(\d+)px", frame)[1] == str(430 + 2 * result.n_tokens)


PROBE = """
const seen = {}, cells = [...document.querySelectorAll(".t")], panel = document.querySelector("#panel");
const fire = (cell, name) => cell.dispatchEvent(new MouseEvent(name, {bubbles: true}));
const key = (name) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: name, bubbles: true}));
const pick = (i) => { const radio = document.querySelectorAll("input")[i]; radio.checked = true;
  radio.dispatchEvent(new Event("change", {bubbles: true})); };
const looks = () => cells.map((cell) => cell.className.split(" ").filter((name) => /^[sd].$/.test(name)).join());
seen.texts = [...document.querySelectorAll(".text")].map((text) => text.textContent);
seen.rtl = [...document.querySelectorAll(".text")].map((text) => text.matches(":dir(rtl)"));
seen.titles = cells.filter((cell) => cell.title).length;
seen.start = looks();
fire(cells[1], "mouseover");
seen.panel = panel.innerText;
seen.top = [...panel.querySelectorAll("li")].map((item) => [...item.children].map((part) => part.textContent));
seen.background = getComputedStyle(cells[1]).backgroundColor;
pick(2);
seen.excess = looks();
seen.hash = location.hash;
seen.about = document.querySelector(".about").textContent;
seen.now = panel.querySelector(".now").textContent;
seen.changed = getComputedStyle(cells[1]).backgroundColor;
fire(cells[8], "click");
seen.focus = cells.indexOf(document.activeElement);
key("ArrowRight"); seen.right = cells.indexOf(document.activeElement);
key("ArrowLeft"); key("ArrowLeft"); seen.left = cells.indexOf(document.activeElement);
key("End"); seen.end = cells.indexOf(document.activeElement);
seen.stops = document.querySelectorAll(".t[tabindex='0']").length;
seen.described = cells.filter((cell) => cell.getAttribute("aria-describedby")).map((cell) => cells.indexOf(cell));
cells[2].tabIndex = -1; cells[2].focus();
if (!document.hasFocus()) cells[2].dispatchEvent(new FocusEvent("focusin", {bubbles: true}));
seen.focused = panel.querySelector(".token").textContent;
const box = (cell) => cell.getBoundingClientRect();
seen.order = box(cells[8]).left > box(cells[9]).left;
seen.lines = box(cells[5]).top > box(cells[3]).top;
seen.unseen = cells.map((cell, i) => [i, box(cell).width]).filter(([, width]) => width < 2).map(([i]) => i);
seen.beside = box(document.querySelector(".side")).left >= box(document.querySelector("main")).right;
const documents = document.querySelector("#document");
documents.value = "document-1"; documents.dispatchEvent(new Event("change"));
seen.hidden = [...document.querySelectorAll(".doc")].map((section) => section.hidden);
seen.hacked = String(window.hacked);
seen.asked = performance.getEntriesByType("resource").length;
const script = document.createElement("script"); script.textContent = "window.hacked = 2";
document.body.append(script);
seen.refused = String(window.hacked);
document.body.dataset.seen = encodeURIComponent(JSON.stringify(seen));
"""


def seen_in(elements):
    """What a probe left in the page."""
    return json.loads(unquote(re.search('data-seen="([^"]*)"', elements)[1]))


@needs_browser
def test_in_a_browser(result):
    page = tokens(result)
    data, seen = Page(page).data, seen_in(dom(with_script(page.html, PROBE)))
    assert seen["texts"] == [held(text) for text in result.texts.values()]
    assert seen["rtl"] == [False, True, True, False, False]
    assert seen["titles"] == 0

    surprisal, _, excess, *_ = data["quantities"]
    assert seen["start"] == [surprisal["kind"] + level for level in surprisal["levels"]]
    assert seen["excess"] == [excess["kind"] + level for level in excess["levels"]]
    assert seen["background"] != seen["changed"]
    assert seen["hash"] == "#excess"
    assert seen["about"] == excess["about"]
    assert seen["now"] == "excess nats"

    lines = [line for line in seen["panel"].splitlines() if line.strip()]
    assert lines[0] == "␣cat"
    assert "position 1" in lines[1]
    assert f"id {int(result.token[1])}" in lines[1]
    for quantity in data["quantities"]:
        value = shown(quantity["values"][1])
        assert any(line.split()[0] == quantity["name"] and line.split()[-1] == value for line in lines), quantity["name"]
    likeliest = [data["strings"][data["ids"].index(token)] for token in result.top_tokens[1].tolist()]
    assert [token for token, _ in seen["top"]] == likeliest
    shares = [float(share.removesuffix(" %")) / 100 for _, share in seen["top"]]
    np.testing.assert_allclose(shares, result.top_log_probs[1].exp(), rtol=6e-3)

    # The eighth token begins a text from right to left: the arrow to the right goes before it, where there is nothing.
    assert (seen["focus"], seen["right"], seen["left"], seen["end"]) == (8, 8, 10, 15)
    assert seen["stops"] == len(DOCUMENTS), "one stop for the tab key in each text"
    assert seen["described"] == [15]
    assert seen["focused"] == "␣sat"
    assert seen["order"]
    assert seen["lines"]
    assert seen["unseen"] == []
    assert seen["beside"]
    assert seen["hidden"] == [True, False, True, True, True]
    assert seen["hacked"] == "undefined"
    assert seen["asked"] == 0
    assert seen["refused"] == "undefined", "a script that the page did not bring does not run"


@needs_browser
def test_an_address_chooses_the_quantity():
    page = tokens({"a b": hand_made.surprisal(PLAIN), "c": hand_made.surprisal(PLAIN, seed=1)})
    probe = """
    const seen = {shown: document.querySelector(".quantity").textContent};
    location.hash = "#nonsense%"; location.hash = encodeURIComponent("c: rank");
    addEventListener("hashchange", () => {
      seen.then = document.querySelector("input:checked").getAttribute("aria-label");
      document.body.dataset.seen = encodeURIComponent(JSON.stringify(seen));
    });
    """
    seen = seen_in(dom(with_script(page.html, probe), fragment="a%20b%3A%20entropy"))
    assert seen["shown"].startswith("a b: entropy")
    assert seen["then"] == "c: rank"


@needs_browser
def test_in_the_narrow_frame_of_a_notebook():
    probe = """
    const radio = document.querySelectorAll("input")[1], panel = document.querySelector("#panel");
    const box = (what) => what.getBoundingClientRect();
    const look = () => {
      if (!box(panel).width) return setTimeout(look, 10);  // A frame may run its scripts before it is given its size.
      radio.checked = true; radio.dispatchEvent(new Event("change"));
      const low = [...document.querySelectorAll(".t")].filter((cell) => box(cell).bottom < innerHeight).at(-1);
      const before = box(low).bottom;
      low.dispatchEvent(new MouseEvent("click", {bubbles: true}));
      parent.postMessage({
        shown: document.querySelector(".quantity").textContent + "|" + panel.innerText, before, after: box(low).bottom,
        top: box(panel).top, height: innerHeight, wide: document.documentElement.scrollWidth - innerWidth,
      }, "*");
    };
    look();
    """
    page = tokens(hand_made.surprisal([" cat"] * 400))
    framed = TokenPage(with_script(page.html, probe), page.n_tokens)._repr_html_()
    listener = """<script>addEventListener("message", (event) => {
      document.body.dataset.seen = encodeURIComponent(JSON.stringify(event.data)); });</script>"""
    seen = seen_in(dom(f"<!doctype html><body>{listener}{framed}</body>", size=(600, 900)))
    assert seen["shown"].startswith("entropynats|␣cat\n")
    assert seen["height"] == 720
    assert seen["before"] > seen["top"], "the panel would cover the token"
    assert seen["after"] <= seen["top"]
    assert seen["wide"] <= 0, "nothing is wider than the page"
