"""Settling measured on models: without the final norm against dense logits, and summaries against every position."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy import functional
from tl_entropy.errors import InputError, InputTypeError

pytestmark = pytest.mark.model

QUIET = {"progress": False, "metrics": "jsd"}
SUMMARY = {**QUIET, "keep": "summary", "settled": (0.04, "bits")}
RAW = ("gpt2", "bridge") if "bridge" in kinds() else ("gpt2", "hooked raw")


@torch.no_grad()
def test_without_the_final_norm_layers_are_read_by_the_unembedding_alone(any_model, texts):
    if "Pre" in str(any_model.cfg.normalization_type) or getattr(any_model, "compatibility_mode", False):
        with pytest.raises(InputError, match="folded the final norm's gain"):
            tle.layer_divergence(any_model, texts[0], final_norm=False, **QUIET)
        return
    result = tle.layer_divergence(any_model, texts[0], final_norm=False, prepend_bos=True, **QUIET)
    tokens = torch.tensor([[0, *any_model.tokenizer(texts[0], add_special_tokens=False)["input_ids"]]])
    own, cache = any_model.run_with_cache(tokens)
    own = own[0, 1:].double()
    scale = tle.Adapter(any_model).readout.scale
    cap = getattr(any_model.cfg, "output_logits_soft_cap", None) or 0.0
    for i, site in enumerate(result.sites[:-1]):
        name = "blocks.0.hook_resid_pre" if site.name == "embed" else f"blocks.{site.layer}.hook_resid_post"
        logits = scale * any_model.unembed(cache[name])[0, 1:].double()
        logits = cap * torch.tanh(logits / cap) if cap > 0 else logits
        torch.testing.assert_close(
            result.metric("jsd")[:, i].double(), functional.js_divergence(own, logits), atol=5e-5, rtol=0
        )
    assert not result.metric("jsd")[:, -1].any()
    assert result.provenance.settings["final_norm"] is False
    ordinary = tle.layer_divergence(any_model, texts[0], prepend_bos=True, **QUIET)
    assert "final_norm" not in ordinary.provenance.settings
    assert not torch.equal(ordinary.divergence, result.divergence)


def test_a_summary_has_the_ratio_of_every_position(texts):
    model = cached_model(*RAW)
    every = tle.layer_divergence(model, texts, **QUIET)
    summary = tle.layer_divergence(model, texts, **SUMMARY)
    for rho in (0.3, 0.85, 1.0):
        one, other = every.deep_thinking_ratio(rho, threshold=0.04, unit="bits"), summary.deep_thinking_ratio(rho)
        pd.testing.assert_frame_equal(one, other, rtol=1e-9)
    settled, columns = summary.mean_profile("settled"), ["site", "layer", "mean", "se", "tokens", "documents"]
    truth = every.settled_profile(0.04, unit="bits")
    pd.testing.assert_frame_equal(settled[columns], truth[columns], rtol=1e-9)
    assert 0 < summary.deep_thinking_ratio()["ratio"][0] < 1
    assert summary.metrics == ("jsd",)
    assert summary.provenance.settings["settled"] == (0.04, "bits")
    assert not math.isnan(summary.deviation("settled")[0])


def test_parts_of_a_corpus_are_the_whole_and_other_thresholds_are_refused(texts, tmp_path):
    model = cached_model(*RAW)
    one, other, third = (
        tle.DivergenceAccumulator(model, **{k: v for k, v in SUMMARY.items() if k != "progress"}) for _ in "abc"
    )
    tle.stream(model, texts[:2], [one], progress=False)
    tle.stream(model, texts[2:], [other], progress=False, documents=None)
    tle.stream(model, texts, [third], progress=False)
    one.merge(other)
    assert one.compute().deep_thinking_ratio()["ratio"][0] == pytest.approx(third.compute().deep_thinking_ratio()["ratio"][0])
    another = tle.DivergenceAccumulator(model, metrics="jsd", keep="summary", settled=(0.03, "bits"))
    with pytest.raises(InputError):
        one.merge(another)
    back = tle.load(third.compute().save(tmp_path / "s.safetensors"))
    assert back.deep_thinking_ratio().equals(third.compute().deep_thinking_ratio())
    with pytest.raises(InputError, match=r"measured with settled=\(0.04, 'bits'\)"):
        tle.plots.settling(back, unit="bits")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"settled": 0.5}, InputTypeError, "threshold and its unit"),
        ({"settled": (0.5, "bits"), "keep": "positions"}, InputError, "asked later"),
        ({"settled": (0.9, "nats")}, InputError, "below log 2"),
        ({"settled": (0.5, "bits"), "metrics": "kl"}, InputError, "metrics with 'jsd'"),
        ({"settled": (0.5, "bits"), "against": "previous"}, InputError, "against the output"),
        ({"settled": (0.5, "bits"), "sites": "mlp_out"}, InputError, "none of the sites is a state"),
        ({"final_norm": False, "lens": lambda site, rows: rows}, InputError, "leave one of them out"),
    ],
)
def test_what_is_refused(texts, options, error, words):
    with pytest.raises(error, match=words):
        tle.layer_divergence(cached_model(*RAW), texts[0], **{**QUIET, "keep": "summary", **options})


def test_a_summary_without_a_threshold_has_no_ratio(texts):
    summary = tle.layer_divergence(cached_model(*RAW), texts[0], keep="summary", **QUIET)
    with pytest.raises(InputError, match="without a threshold"):
        summary.deep_thinking_ratio()
