"""What has an entry in a legend: bands, hatches and lines that the axes do not explain; and how many lines share theirs."""

from __future__ import annotations

import gallery
import matplotlib.pyplot as plt
from drawn import legend as entries

from tl_entropy import plots
from tl_entropy.plots.legends import add_legend
from tl_entropy.plots.style import line_styles


def test_many_lines_of_results_by_what_is_shown_share_their_entries():
    _, axes = plt.subplots()
    styled = line_styles([(f"model {i}", shown) for i in range(5) for shown in ("own", "given")])
    for style, label in styled:
        axes.plot([0, 1], [0, 1], **style, label=label)
    legend = add_legend(axes, own=False)
    assert entries(axes) == [*(f"model {i}" for i in range(5)), "own", "given"]
    handles = legend.legend_handles
    for (style, _), entry in zip(styled[::2], handles[:5], strict=True):
        assert (tuple(entry.get_color()), entry.get_marker()) == (tuple(style["color"]), style["marker"])
    assert [entry.get_linestyle() for entry in handles[5:]] == [styled[0][0]["linestyle"], styled[1][0]["linestyle"]]
    axes.lines[-1].set_color("red")  # which is not its result's, and so has an entry of its own
    add_legend(axes, own=False)
    assert len(entries(axes)) == 10


def test_few_lines_have_an_entry_each():
    _, axes = plt.subplots()
    for style, label in line_styles([(name, shown) for name in "ab" for shown in ("own", "given")]):
        axes.plot([0, 1], [0, 1], **style, label=label)
    add_legend(axes, own=False)
    assert entries(axes) == ["a, own", "a, given", "b, own", "b, given"]


def test_three_orders_of_ten_results():
    assert entries(gallery.FIGURES["profile_low"](2, 5, 10))[-3:] == ["order 0.5", "order 1", "order 2"]


def test_the_line_from_which_layers_are_deep_is_named():
    result = gallery.divergence(2, 5)
    assert entries(plots.settling(result, unit="bits")) == ["model 0", "deep from here on (ρ = 0.85)"]
    assert plots.settling(result, unit="bits", rho=None).get_legend() is None


def test_the_band_of_the_real_effect_is_named():
    found = gallery.FIGURES["placebo"](2, 5, 1)
    assert entries(found)[0] == "placebos"
    assert entries(found)[-1] == "± 1.96 standard errors"


def test_the_hatch_of_no_change_is_named_where_there_is_one():
    found = gallery.changes(2, 2)
    found.changes.fill_(1.0)  # of all documents, so without an error
    assert plots.sensitivity(found).get_legend() is None
    found.changes[0, 0] = -1.0
    assert entries(plots.sensitivity(found)) == ["≤ 1.96 standard errors"]
