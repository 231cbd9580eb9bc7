"""Compressors of the same bytes, and rates by position in the window, against files and loops."""

from __future__ import annotations

import bz2
import gzip
import lzma
import math

import pytest
import torch
from hand_made import surprisal
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.batches import batches
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.corpus import read_corpus
from tl_entropy.errors import InputError

DOCUMENTS = (["the", " cat", " is", " é", "", "!"] * 20, ["a", " mat"] * 9)


def test_compressors_are_of_the_same_bytes():
    result = surprisal(*DOCUMENTS)
    frame = result.beside_compressors().set_index("code")
    data = [result.texts[i].encode() for i in (0, 1)]
    whole = sum(map(len, data))
    for name, compress in {
        "gzip": lambda d: gzip.compress(d, 9, mtime=0),
        "bzip2": bz2.compress,
        "lzma": lambda d: lzma.compress(d, preset=9 | lzma.PRESET_EXTREME),
    }.items():
        bits = [8 * len(compress(d)) for d in data]
        m = sum(bits) / whole
        assert frame.loc[name, "bits_per_byte"] == pytest.approx(m)
        assert frame.loc[name, "in_one_stream"] == pytest.approx(8 * len(compress(b"".join(data))) / whole)
        se = math.sqrt(2 * sum((b - m * len(d)) ** 2 for b, d in zip(bits, data, strict=True))) / whole
        assert frame.loc[name, "se"] == pytest.approx(se)
    assert frame.loc["tiny", "bits_per_byte"] == pytest.approx(result.bits_per_byte())
    assert frame["bytes"].tolist() == [whole] * 4
    part = result.select(positions=range(3)).beside_compressors()
    assert part["bytes"].tolist() == [len("the cat is") + len("a mata")] * 4, "what is not measured is not compressed"
    assert result.select(documents=0).beside_compressors()["se"].isna().all()


def test_texts_that_are_not_known():
    with pytest.raises(InputError, match="need every document's text"):
        surprisal(*DOCUMENTS, texts={}, n_bytes=torch.full((138,), math.nan)).beside_compressors()


@pytest.mark.model
@pytest.mark.parametrize(("options"), [{}, {"window": 8}, {"window": 8, "stride": 3}, {"window": 8, "prepend_bos": False}])
def test_positions_are_those_in_the_window(options):
    texts = ["the cat sat on the mat, and the dog sat on the cat and the dog", "def f(x):"]
    model = cached_model("gpt2", kinds()[-1])
    result = tle.token_surprisal(model, texts, progress=False, **options)
    corpus = read_corpus(Adapter(model), texts, count="predicted", **options)
    seen = []
    for batch in batches(corpus, batch_size=1, max_tokens=10**6):
        within = (batch.position[0] >= 0).cumsum(0)
        seen += within[batch.counted[0]].tolist()
    frame = result.by_position()
    assert frame["tokens"].sum() == result.n_tokens == len(seen)
    assert dict(zip(frame["position"], frame["tokens"], strict=True)) == {p: seen.count(p) for p in sorted(set(seen))}
    places = torch.tensor(seen)
    for _, line in frame.iterrows():
        assert line["surprisal"] == pytest.approx(float(result.surprisal[places == line["position"]].mean()))
        assert line["entropy"] == pytest.approx(float(result.entropy[places == line["position"]].mean()))
    wide = result.by_position(4)
    assert wide["position"].tolist() == sorted({p // 4 * 4 for p in seen})
    assert (wide["tokens"] * wide["surprisal"]).sum() == pytest.approx(float(result.surprisal.sum()))


def test_widths():
    with pytest.raises(InputError, match="width must be an int of at least 1"):
        surprisal(["a"]).by_position(0)
