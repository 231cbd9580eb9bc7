"""Rates of single tokens' surprisal against plain arithmetic, their errors against loops, units and files."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hand_made import without_rows
from hypothesis import given, strategies as st

import tl_entropy as tle
from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.tokens.rates import moments
from tl_entropy.results.tokens.surprisal import SurprisalSummary, TokenSurprisal, document_totals

LN2 = math.log(2)


def made(lengths=(3, 5, 2, 7), *, known=True, seed=0, loss=None, **changes):
    """A result of documents of these lengths with a text of "ab" for each token."""
    draw = torch.Generator().manual_seed(seed)
    rows = sum(lengths)
    document = torch.tensor([d for d, n in enumerate(lengths) for _ in range(n)])
    position = torch.tensor([p for n in lengths for p in range(n)])
    uniform = torch.rand(3, rows, generator=draw, dtype=torch.float64)
    two = torch.full((rows,), 2.0, dtype=torch.float64)
    parts = {
        "surprisal": 4 * uniform[0] if loss is None else torch.full((rows,), loss, dtype=torch.float64),
        "entropy": 3 * uniform[1],
        "varentropy": 2 * uniform[2], "rank": torch.arange(rows) % 3, "document": document, "position": position,
        "token": torch.zeros(rows, dtype=torch.long), "strings": {0: "ab"},
        "span": torch.stack([2 * position, 2 * position + 2], 1) if known else torch.full((rows, 2), -1),
        "n_bytes": two if known else two * torch.nan, "n_characters": two if known else two * torch.nan,
        "texts": {d: "ab" * n for d, n in enumerate(lengths)} if known else {},
        "provenance": Provenance("tiny", "abc", "raw", "float32", "cpu", versions={}, created="then"),
    }  # fmt: skip
    return TokenSurprisal(**{**parts, **changes})


def value(result, quantity, column="value", **memory):
    rates = result.rates(**memory).set_index("quantity")
    return rates.loc[quantity, column]


def test_rates_are_sums_over_sums():
    result = made()
    nats, tokens = result.surprisal.sum().item(), result.n_tokens
    assert result.loss() == value(result, "loss") == pytest.approx(nats / tokens, rel=1e-14)
    assert result.perplexity() == value(result, "perplexity") == pytest.approx(math.exp(nats / tokens), rel=1e-14)
    assert result.bits_per_byte() == value(result, "bits per byte") == pytest.approx(nats / LN2 / (2 * tokens), rel=1e-14)
    assert (
        result.bits_per_character()
        == value(result, "bits per character")
        == pytest.approx(nats / LN2 / (2 * tokens), rel=1e-14)
    )
    assert value(result, "entropy") == pytest.approx(result.entropy.mean().item(), rel=1e-14)
    assert value(result, "varentropy") == pytest.approx(result.varentropy.mean().item(), rel=1e-14)
    assert value(result, "accuracy") == pytest.approx((result.rank == 0).double().mean().item(), rel=1e-14)


@pytest.mark.parametrize("memory", [{}, {"memory_bits": 24}, {"memory_bits": 24, "memory_tokens": 10}])
def test_errors_are_those_of_ratios_over_documents(memory):
    result = made()
    bits = memory.get("memory_bits", 0)
    sums, sizes = [], []
    for document in result.documents:
        here = result.document == document
        n = int(here.sum())
        extra = bits * LN2 * (n / 10 if "memory_tokens" in memory else 1)
        sums.append(result.surprisal[here].sum().item() + extra)
        sizes.append(n)
    mean = sum(sums) / sum(sizes)
    count = len(sums)
    error = math.sqrt(count / (count - 1) * sum((s - mean * n) ** 2 for s, n in zip(sums, sizes, strict=True))) / sum(sizes)
    assert value(result, "loss", **memory) == result.loss(**memory) == pytest.approx(mean, rel=1e-12)
    assert value(result, "loss", "se", **memory) == pytest.approx(error, rel=1e-10)
    assert value(result, "perplexity", "se", **memory) == pytest.approx(math.exp(mean) * error, rel=1e-10)
    assert value(result, "bits per byte", "se", **memory) == pytest.approx(error / 2 / LN2, rel=1e-10)
    assert result.bits_per_byte(**memory) == pytest.approx(mean / 2 / LN2, rel=1e-12)


@pytest.mark.parametrize(("bits", "cost"), [(4, 0.1733), (8, 0.3466), (16, 0.6931)])
def test_a_memory_of_64_numbers_over_1024_tokens(bits, cost):
    result = made((1024, 1024), loss=2.0)
    assert result.loss(memory_bits=64 * bits, memory_tokens=1024) == pytest.approx(2 + cost, abs=5e-5)
    assert result.loss(memory_bits=64 * bits) == pytest.approx(2 + cost, abs=5e-5), "one for each document, which is full"
    padded = made((1024, 256), loss=2.0)
    assert padded.loss(memory_bits=64 * bits) == pytest.approx(2 + cost * 2 * 1024 / 1280, abs=1e-4), "a short one pays as much"


def test_a_published_figure():
    """1.4 nats a token at 2.82 bytes a token are .716 bits a byte, printed as about .72."""
    n = 50
    result = made((n,), loss=1.4, n_bytes=torch.full((n,), 2.82, dtype=torch.float64))
    assert result.bits_per_byte() == pytest.approx(0.7162, abs=1e-4)


def test_units():
    nats = made()
    bits = nats.to("bits")
    assert bits.loss() == pytest.approx(nats.loss() / LN2)
    torch.testing.assert_close(bits.varentropy, nats.varentropy / LN2**2)
    for same in ("perplexity", "bits_per_byte", "bits_per_character"):
        assert getattr(bits, same)(memory_bits=3) == pytest.approx(getattr(nats, same)(memory_bits=3), rel=1e-12), same
    for quantity, factor in (("loss", LN2), ("entropy", LN2), ("varentropy", LN2**2), ("perplexity", 1), ("accuracy", 1)):
        for column in ("value", "se"):
            assert value(bits, quantity, column) * factor == pytest.approx(value(nats, quantity, column), rel=1e-12), quantity
    assert bits.per_document()["loss"].tolist() == pytest.approx((nats.per_document()["loss"] / LN2).tolist())
    assert bits.per_document()["bits_per_byte"].tolist() == pytest.approx(nats.per_document()["bits_per_byte"].tolist())
    assert bits.columns()["varentropy"].unit == "bits²"
    torch.testing.assert_close(bits.to("nats").surprisal, nats.surprisal)
    assert "loss (bits a token)" in repr(bits)


def test_unknown_texts():
    result = made(known=False)
    for method in (result.bits_per_byte, result.bits_per_character):
        with pytest.raises(InputError, match="need every document's text"):
            method()
    assert value(result, "loss") == pytest.approx(made().loss())
    assert "bits per byte" not in repr(result)
    assert result.per_document()["bytes"].isna().all()


def test_one_document_has_no_error():
    assert math.isnan(value(made((4,)), "loss", "se"))
    assert "±" not in repr(made((4,))).splitlines()[2]


def test_bits_of_a_memory_may_be_numbers_of_numpy():
    for bits in (np.float32(24), np.int64(24), 24.0):
        assert made().loss(memory_bits=bits) == made().loss(memory_bits=24)


@pytest.mark.parametrize(
    ("memory", "error", "message"),
    [
        ({"memory_bits": -1}, InputError, "at least 0"),
        ({"memory_bits": math.nan}, InputError, "at least 0"),
        ({"memory_bits": "64"}, InputTypeError, "memory_bits must be a finite number of at least 0; got '64'"),
        ({"memory_bits": torch.tensor(64.0)}, InputTypeError, "memory_bits must be a finite number"),
        ({"memory_bits": 1, "memory_tokens": 0}, InputError, "memory_tokens must be an int of at least 1"),
    ],
)
def test_memories_that_make_no_sense(memory, error, message):
    for method in ("loss", "perplexity", "bits_per_byte", "bits_per_character", "rates"):
        with pytest.raises(error, match=message):
            getattr(made(), method)(**memory)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_moments_of_any_split_add_up(lengths, seed):
    result = made(tuple(lengths), seed=seed)
    totals, documents = document_totals(vars(result))
    assert documents == list(range(len(lengths)))
    whole = moments(totals)
    cut = len(lengths) // 2
    parts = [moments(totals[:cut]), moments(totals[cut:])]
    for i in range(2):
        torch.testing.assert_close(parts[0][i] + parts[1][i], whole[i], rtol=1e-12, atol=0)
    summary = SurprisalSummary(sums=whole[0], products=whole[1], provenance=result.provenance)
    assert summary.rates().equals(result.rates())
    assert summary.to("bits").rates().round(9).equals(result.to("bits").rates().round(9))


def test_columns_and_tables():
    result = made(top_tokens=torch.zeros(17, 1, dtype=torch.long), top_log_probs=torch.zeros(17, 1))
    columns = result.columns()
    torch.testing.assert_close(columns["excess"].values, result.surprisal - result.entropy)
    assert [column.unit for column in columns.values()] == ["nats", "nats", "nats", "nats²", ""]
    frame = result.to_pandas()
    assert list(frame.columns) == [
        "document", "position", "start", "end", "token", "surprisal", "entropy", "excess", "varentropy", "rank",
        "bytes", "top_token",
    ]  # fmt: skip
    assert frame["rank"].dtype.kind == "i"
    assert frame["top_token"].tolist() == ["ab"] * 17
    assert frame["surprisal"].tolist() == result.surprisal.tolist()


def test_selection_and_files(tmp_path):
    result = made(names={1: "one.txt"}, generated=torch.arange(17) > 4)
    part = result.select(documents=[1, 3], positions=slice(-2, None))
    assert part.document.tolist() == [1, 1, 3, 3]
    assert part.position.tolist() == [3, 4, 5, 6]
    assert part.texts.keys() == {1, 3}
    assert part.generated.tolist() == [True] * 4
    assert part.surprisal.tolist() == result.surprisal[[6, 7, 15, 16]].tolist()
    with pytest.raises(InputError, match="documents: 9 not in this result"):
        result.select(documents=9)
    for one in (result.to("bits"), SurprisalSummary(*moments(document_totals(vars(result))[0]), provenance=result.provenance)):
        again = tle.load(one.save(tmp_path / "result.safetensors"))
        assert type(again) is type(one)
        for field in dataclasses.fields(one):
            mine, theirs = getattr(one, field.name), getattr(again, field.name)
            assert torch.equal(mine, theirs) if isinstance(mine, torch.Tensor) else mine == theirs, field.name
        assert again.rates().equals(one.rates())


def test_nothing_and_too_much():
    nothing = without_rows(made((3,)))
    for method in ("loss", "perplexity", "bits_per_byte", "rates"):
        with pytest.raises(InputError, match="no token to take a rate of"):
            getattr(nothing, method)()
    assert made().perplexity(memory_bits=1e6) == math.inf
    assert value(made(), "perplexity", memory_bits=1e6) == math.inf
    assert math.isfinite(made().bits_per_byte(memory_bits=1e6))


def test_html_is_escaped():
    origin = dataclasses.replace(made().provenance, model="<b>bold</b>")
    assert "<b>bold" not in made(provenance=origin)._repr_html_()
