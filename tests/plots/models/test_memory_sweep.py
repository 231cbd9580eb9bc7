"""The figure of a sweep draws what the result says."""

from __future__ import annotations

import dataclasses
import math

import pytest
from gallery import swept

import tl_entropy as tle


def test_losses_are_drawn_against_bits_a_token_in_any_unit():
    result = swept(3)
    frame = result.to_pandas()
    for unit, nat in (("nats", 1.0), ("bits", 1 / math.log(2))):
        axes = tle.plots.memory_sweep(result.to(unit))
        told, charged = (container[0] for container in axes.containers)
        assert told.get_xdata().tolist() == pytest.approx(sorted(4 * n * 2 / 64 for n in (1, 2, 3)))
        assert told.get_ydata().tolist() == pytest.approx((frame["loss"][1:] * nat).tolist())
        assert charged.get_ydata().tolist() == pytest.approx((frame["charged"][1:] * nat).tolist())
        assert axes.lines[0].get_ydata()[0] == pytest.approx(frame["loss"][0] * nat)
        assert unit in axes.get_ylabel()


def test_compressors_are_marks_where_nothing_is_told():
    plain = swept(2)
    corpus = dict(plain.provenance.corpus) | {"compressed": {"gzip": 100, "lzma": 90}}
    result = dataclasses.replace(plain, provenance=dataclasses.replace(plain.provenance, corpus=corpus))
    for unit, per_bit in (("nats", math.log(2)), ("bits", 1.0)):
        axes = tle.plots.memory_sweep(result.to(unit))
        marks = {
            line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines if line.get_marker() in "x+"
        }
        assert marks["gzip"] == pytest.approx((0, 800 * per_bit / int(result.tokens.sum())))
        assert marks["lzma"] == pytest.approx((0, 720 * per_bit / int(result.tokens.sum())))
