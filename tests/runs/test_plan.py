"""What is told of a run before it runs: the bytes of what it keeps, by formula and in files, at two sizes: within 5 %."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tiny_models import make_model

import tl_entropy as tle
from tl_entropy.capture.loading.sizes import ModelSize
from tl_entropy.runs.plan import _state

DOCUMENT = 40
KINDS = {
    "lens_entropy": (tle.LensAccumulator, ({}, {"orders": (0.5, 1, 2)}, {"top_k": 3, "surprisal": True}, {"sites": "embed"})),
    "layer_divergence": (tle.DivergenceAccumulator, ({}, {"metrics": ("kl",), "sites": "embed"})),
    "head_entropy": (tle.HeadAccumulator, ({}, {"orders": (1, 2), "layers": 0}, {"of": "readout"})),
    "token_surprisal": (tle.SurprisalAccumulator, ({}, {"top_k": 1})),
    "confidence": (tle.ConfidenceAccumulator, ({}, {"sites": ("embed", "resid_post")})),
    "unigram_distance": (lambda m, **options: tle.UnigramAccumulator(m, torch.ones(m.d_vocab), **options), ({},)),
    "token_reliance": (lambda m, on, **options: tle.RelianceAccumulator(m, on, **options), ({"on": tle.ablate("mlp_out.1")},)),
    "gradient_reliance": (lambda m: tle.GradientRelianceAccumulator(m, "embed"), ({},)),
}


@cache
def model():
    return tle.Adapter(make_model("gpt2"))


def kept(function, options, documents, path):
    """Bytes of the file of what an accumulator keeps of so many documents."""
    one = KINDS[function][0](model(), **options)
    rows = torch.randint(1, 300, (documents, DOCUMENT), generator=torch.Generator().manual_seed(0))
    count = "read" if function in ("lens_entropy", "layer_divergence", "head_entropy") else "predicted"
    report = tle.stream(model(), rows, [one], count=count, progress=False)
    return one.save(path).stat().st_size, report.tokens


@pytest.mark.parametrize("function", KINDS)
def test_rows_take_what_was_said(function, tmp_path):
    """Between two sizes, so that what a file holds once is not among it."""
    size = ModelSize(parameters=0, layers=3, heads=4, d_model=32, tokens_a_byte=None)
    for options in KINDS[function][1]:
        (small, few), (large, many) = (kept(function, options, documents, tmp_path / "state") for documents in (10, 40))
        told = [_state(function, options, size, tokens, tokens // DOCUMENT)[0] for tokens in (few, many)]
        assert large - small == pytest.approx(told[1] - told[0], rel=0.05), options
