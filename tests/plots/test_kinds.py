"""Refusals of what a plot does not draw: they name the plots that do, and those do."""

from __future__ import annotations

import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import tl_entropy as tle
from tl_entropy.plots.kinds import DRAWN_BY
from tl_entropy.results.base import Result

SAVED = Path(__file__).parents[1] / "results" / "saved_by_0_5_0"
FILES = {path.stem: path for folder in (SAVED, SAVED.with_name("saved_since_0_5_0")) for path in folder.glob("*.safetensors")}
KINDS = (*sorted(set(FILES) - {"TunedLens"}), "ModelComparison")
PLOTS = [name for name in tle.plots.__all__ if name not in ("TokenPage", "course")]  # one is no plot, one takes a mapping
UNDRAWN = {"ProfileDistance", "SurprisalSummary", "TunedLens"}


@pytest.mark.thinned
@pytest.mark.parametrize("stem", KINDS)
def test_every_plot_draws_a_result_or_names_those_that_do(stem):
    result = tle.load(SAVED / stem if stem == "ModelComparison" else FILES[stem])
    kind, takes = type(result).__name__, []
    for name in PLOTS:
        try:
            getattr(tle.plots, name)(result)
        except tle.InputTypeError as error:
            refusal = str(error)
            assert kind in refusal
            assert re.findall(r"plots\.(\w+)", refusal) == list(DRAWN_BY.get(kind, ()))
            continue
        except tle.InputError:  # something else is to be chosen, or is not in it
            pass
        finally:
            plt.close("all")
        takes.append(name)
    assert set(takes) == set(DRAWN_BY.get(kind, ()))


def test_every_kind_of_result_is_here():
    there = set(DRAWN_BY) | UNDRAWN | {"TunedLens"}  # which is no result, but is saved like one
    assert there >= {name for name in Result.kinds if Result.kinds[name].__module__.startswith("tl_entropy.")}
    assert not set(DRAWN_BY) & UNDRAWN
    assert {name.partition("_")[0] for name in KINDS} >= set(DRAWN_BY) | UNDRAWN - {"TunedLens"}
