"""The figure of a text: every token on the colour of its value, in lines that fit."""

from __future__ import annotations

import dataclasses
import io

import hand_made
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgba

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.plots.cells import ink
from tl_entropy.plots.tokens.parts import colours
from tl_entropy.plots.tokens.text import FONT, LINE, token_text

LINES = ["The", " cat", " sat", " on", ".", "\n", "    return", " x", "\n"]
PROSE = [" word", " longer", ",", " and", " so", " on"] * 12


def drawn(axes):
    """The texts with their places, without the colour bar's label; and the boxes with their colours."""
    (boxes,) = [collection for collection in axes.collections if isinstance(collection, PolyCollection)]
    extents = [path.get_extents().extents for path in boxes.get_paths()]
    return axes.texts[:-1], np.array(extents), boxes.get_facecolors()


def lines_of(axes):
    """What stands in each line, from the top."""
    found = {}
    for text in drawn(axes)[0]:
        found.setdefault(-int(text.get_position()[1] // LINE) - 1, []).append(text.get_text())
    return found


def painted(axes):
    """The figure is drawn without a warning."""
    axes.figure.figure.savefig(io.BytesIO(), format="png", dpi=100)
    axes.figure.figure.savefig(io.BytesIO(), format="pdf")
    return axes


def test_tokens_in_their_lines():
    axes = painted(token_text(hand_made.surprisal(LINES)))
    assert lines_of(axes) == {0: ["The", "cat", "sat", "on", ".", "↵"], 1: ["return", "x", "↵"]}
    texts, boxes, _ = drawn(axes)
    assert len(boxes) == len(LINES)
    for text, box in zip(texts, boxes, strict=True):
        x, y = text.get_position()
        assert box[0] <= x < box[2]
        assert box[1] < y < box[3]
    widths = boxes[:, 2] - boxes[:, 0]
    np.testing.assert_allclose(widths / widths[4], [len(piece) for piece in LINES], rtol=1e-6)  # monospaced
    np.testing.assert_allclose(boxes[1:5, 0], boxes[:4, 2])  # no gap between tokens of a line
    indent = texts[6].get_position()[0] - boxes[6, 0]
    assert indent == pytest.approx(4 * widths[4])


def test_colours_and_ink_are_those_of_the_values():
    values = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, float("inf"), float("nan"), 0.2, 0.1])
    axes = token_text(hand_made.surprisal(LINES, surprisal=values))
    texts, boxes, fills = drawn(axes)
    scale = colours("viridis", 256, both_signs=False)
    seen = [0, 1, 2, 3, 4, 4, 0.2, 0.1]  # a value that is none has no box
    assert len(boxes) == len(seen)
    np.testing.assert_allclose(fills[:, :3], scale[[min(int(256 * value / 4), 255) for value in seen]])
    inks = [to_rgba(text.get_color()) for text in texts]
    expected = [ink(fill) for fill in fills]
    expected.insert(6, "black")
    assert inks == [to_rgba(name) for name in expected]
    assert {"black", "white"} <= set(expected)


def test_lines_end_before_spaces_and_inside_the_axes():
    axes = painted(token_text(hand_made.surprisal(PROSE), width=3.4))
    _, boxes, _ = drawn(axes)
    wide, high = axes.get_xlim()[1], -axes.get_ylim()[0]
    assert boxes[:, 2].max() <= wide
    assert wide == pytest.approx(3.4 * 72, abs=10)
    assert len(boxes) == len(PROSE), "no token is broken"
    lines = lines_of(axes)
    assert len(lines) > 3
    assert all(line[0] != "," for line in lines.values())
    assert axes.get_window_extent().height * 72 / axes.figure.dpi == pytest.approx(high)
    bar = axes.child_axes[0]
    assert bar.get_tightbbox().y0 >= axes.get_window_extent().y0 - 1, "the numbers of the bar are inside the figure"
    assert bar.get_window_extent().y1 < axes.transData.transform((0, -LINE * len(lines)))[1]


def test_an_indent_stays_with_its_word():
    wide = token_text(hand_made.surprisal(["a"]), width=3.4).get_xlim()[1]
    character = drawn(token_text(hand_made.surprisal(["a"])))[1][0, 2]
    fits = int(wide / character)
    axes = token_text(hand_made.surprisal(["b" * (fits - 6), "    ", "word"]), width=3.4)
    texts, boxes, _ = drawn(axes)
    np.testing.assert_allclose(boxes[:, 0] / character, [0, 0, 4], atol=1e-6)
    assert [text.get_text() for text in texts] == ["b" * (fits - 6), "word"]


def test_a_token_longer_than_a_line_is_broken_anywhere():
    axes = painted(token_text(hand_made.surprisal(["a", "b" * 200, "c"]), width=3.4))
    texts, boxes, fills = drawn(axes)
    assert "".join(text.get_text() for text in texts) == "a" + "b" * 200 + "c"
    assert boxes[:, 2].max() <= axes.get_xlim()[1]
    assert len(np.unique(fills, axis=0)) == 3


def test_fonts_are_legible_in_print():
    axes = painted(token_text(hand_made.surprisal(PROSE), width=3.4))
    bar = axes.child_axes[0]
    sizes = [text.get_fontsize() for text in (*axes.texts, *bar.get_xticklabels())]
    assert min(sizes) >= 7
    assert {text.get_fontsize() for text in drawn(axes)[0]} == {FONT}


def test_colour_bar_says_quantity_unit_and_numbers():
    result = hand_made.surprisal(LINES, rank=torch.tensor([0, 1, 5, 50, 500, 2, 3, 4, 700]))
    label = {of: token_text(result, of=of).texts[-1].get_text() for of in result.columns()}
    assert label == {
        "surprisal": "surprisal (nats)", "entropy": "entropy (nats)", "excess": "excess (nats)",
        "varentropy": "varentropy (nats²)", "rank": "rank (logarithmic)",
    }  # fmt: skip
    bar = token_text(result, of="rank").child_axes[0]
    assert [text.get_text() for text in bar.get_xticklabels()] == ["0", "10", "100", "700"]
    np.testing.assert_allclose(bar.get_xticks(), np.log1p([0, 10, 100, 700]) / np.log1p(700))
    assert token_text(result.to("bits")).texts[-1].get_text() == "surprisal (bits)"
    ends = token_text(result, vmin=0.1, vmax=0.2).child_axes[0].get_xticklabels()
    assert (ends[0].get_text(), ends[-1].get_text()) == ("≤0.1", "≥0.2")


def test_both_signs_are_told_apart():
    result = hand_made.surprisal(
        ["a", "b", "c"], surprisal=torch.tensor([1.0, 3.0, 2.0]).double(), entropy=torch.tensor([3.0, 1.0, 2.0]).double()
    )
    fills = drawn(token_text(result, of="excess"))[2]
    blue, orange, none = fills[:, :3]
    assert blue[2] > blue[0] + 0.3
    assert orange[0] > orange[2] + 0.3
    assert none.min() > 0.97


def test_a_part_of_one_document():
    result = hand_made.surprisal(LINES, PROSE, names={1: "prose.txt"})
    axes = token_text(result, document=1, start=3, max_tokens=4)
    assert [text.get_text() for text in drawn(axes)[0]] == ["and", "so", "on", "word"]
    assert axes.get_title(loc="left") == "prose.txt: 4 of 72 tokens, positions 3 to 6"
    assert token_text(result, document=1).get_title(loc="left") == "prose.txt"


def test_what_was_not_asked_for_is_not_drawn():
    result = hand_made.surprisal(LINES)
    for start in range(3):
        axes = token_text(result, start=start, max_tokens=3)
        texts, boxes, _ = drawn(axes)
        assert [text.get_text() for text in texts] == [piece.strip() for piece in LINES[start : start + 3]]
        assert len(boxes) == 3
    unpredicted = result.select(positions=range(1, len(LINES)))  # nothing precedes the first token, which is shown all the same
    for start in (0, 1):
        axes = token_text(unpredicted, start=start, max_tokens=3)
        assert [text.get_text() for text in drawn(axes)[0]] == ["The", "cat", "sat", "on"]
        assert len(drawn(axes)[1]) == 3
    assert [text.get_text() for text in drawn(token_text(unpredicted, start=2, max_tokens=2))[0]] == ["sat", "on"]


def test_text_between_the_tokens_is_plain():
    result = hand_made.surprisal(LINES).select(positions=[1, 3, 4])
    texts, boxes, _ = drawn(token_text(result))
    assert [text.get_text() for text in texts] == ["The", "cat", "sat", "on", "."]
    assert len(boxes) == 3
    late = hand_made.surprisal(LINES).select(positions=[3, 4])  # the text before is left out
    assert [text.get_text() for text in drawn(token_text(late))[0]] == ["on", "."]


def test_tokens_without_a_text():
    result = hand_made.surprisal(LINES)
    unknown = dataclasses.replace(result, texts={}, span=torch.full_like(result.span, -1))
    assert lines_of(token_text(unknown)) == lines_of(token_text(result))


def test_characters_that_no_font_has():
    pieces = ["🦊", "", " 文字", " $x$ \\frac{", "\ufe0f", " e\u0301", "\u0301", "\t"]
    pieces += ["\x1b", "\u200b", "\r\n", "\u3000", "\r", "שלום"]
    axes = painted(token_text(hand_made.surprisal(pieces)))
    texts = [text.get_text() for text in drawn(axes)[0]]
    assert texts[0] == "□"
    assert texts[1:3] == ["·", "□□"]
    assert texts[3] == "$x$ \\frac{"
    assert not any(text.get_parse_math() for text in axes.texts)
    assert texts[6] == "◌\u0301"
    for shown in ("\\x1b", "↵", "\\r"):
        assert shown in texts
    assert len(drawn(axes)[1]) == len(pieces)


def test_fonts_of_the_readers_choice_are_used():
    with mpl.rc_context({"font.monospace": ["nonsense", "DejaVu Serif"], "font.sans-serif": ["DejaVu Sans"]}):
        axes = painted(token_text(hand_made.surprisal(["i", "m"])))
        assert axes.texts[0].get_fontfamily() == ["DejaVu Serif", "DejaVu Sans"]
        widths = np.diff(drawn(axes)[1][:, [0, 2]], axis=1)[:, 0]
    assert widths[1] > 2 * widths[0]


def test_on_axes_that_are_given():
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
    assert token_text(hand_made.surprisal(PROSE[:20]), ax=left) is left
    token_text(hand_made.surprisal(LINES), of="entropy", ax=right)
    painted(left)
    assert tuple(figure.get_size_inches()) == (7, 3)
    assert drawn(left)[1][:, 2].max() <= left.get_xlim()[1] < 3.5 * 72
    with pytest.raises(InputError, match=r"the text needs \d+\.\d\d inches of height at this width"):
        token_text(hand_made.surprisal(PROSE * 4), ax=plt.figure(figsize=(3, 1)).subplots(), max_tokens=500)


def test_refusals():
    result = hand_made.surprisal(LINES, PROSE)
    with pytest.raises(InputError, match="document: choose one of the 2"):
        token_text(result)
    with pytest.raises(InputError, match="documents: 7 not in this result"):
        token_text(result, document=7)
    with pytest.raises(InputError, match=r"of must be one of 'surprisal'.*got 'cost'"):
        token_text(result, document=0, of="cost")
    with pytest.raises(InputError, match="start=40 lies behind the last position"):
        token_text(result, document=0, start=40)
    with pytest.raises(InputError, match="max_tokens must be an int of at least 1"):
        token_text(result, document=0, max_tokens=0)
    with pytest.raises(InputError, match="leave it out for axes that are given"):
        token_text(result, document=0, width=3.4, ax=plt.figure().subplots())
    with pytest.raises(
        InputError, match=r"width \(in inches, or 'column' or 'page'\) must be a finite number from 1 to 100; got 0.1"
    ):
        token_text(result, document=0, width=0.1)
    with pytest.raises(InputError, match="width must be one of 'column', 'page'; got 'a'"):
        token_text(result, document=0, width="a")
    for width in ((1, 2), True):
        with pytest.raises(
            InputTypeError, match=r"width \(in inches, or 'column' or 'page'\) must be a finite number from 1 to 100; got "
        ):
            token_text(result, document=0, width=width)
    with pytest.raises(InputError, match="cmap must be the name"):
        token_text(result, document=0, cmap="nonsense")
    with pytest.raises(InputTypeError, match="got LensEntropy"):
        token_text(hand_made.lens())
