"""Values on the tokens of another tokenizer, against loops over characters, and the line through two quantities."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from scipy import stats
from tiny_models import cached_model, kinds

import tl_entropy as tle
from tl_entropy.analyses.tokens.alignment import align_tokens, token_correlation
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.functional.statistics import balanced_folds, jackknife_error
from tl_entropy.functional.tokens.characters import covering_spans
from tl_entropy.results import Provenance, TokenSurprisal

NAN = math.nan


def origin(model):
    return Provenance(model, "abc", "raw", "float32", "cpu", versions={}, created="then")


def made(documents, *, model="m", seed=0, bos=True, texts=None, values=None):
    """A result of documents, each a list of (token id, string, start, end); without a BOS the first tokens have no row."""
    rows = [
        (d, p, token, start, end)
        for d, tokens in enumerate(documents)
        for p, (token, _, start, end) in enumerate(tokens)
        if bos or p
    ]
    document, position, token, start, end = torch.tensor(rows, dtype=torch.long).reshape(-1, 5).T
    draw = torch.Generator().manual_seed(seed)
    quantities = 5 * torch.rand(3, len(rows), generator=draw, dtype=torch.float64)
    if values is not None:
        quantities[0] = torch.as_tensor(values, dtype=torch.float64)
    return TokenSurprisal(
        surprisal=quantities[0], entropy=quantities[1], varentropy=quantities[2],
        rank=torch.randint(0, 9, (len(rows),), generator=draw), document=document, position=position, token=token,
        span=torch.stack([start, end], 1), n_bytes=torch.ones(len(rows)), n_characters=torch.ones(len(rows)),
        strings={token: text for tokens in documents for token, text, *_ in tokens}, provenance=origin(model),
        texts=dict(enumerate(texts or ())), lengths={d: len(tokens) for d, tokens in enumerate(documents)},
    )  # fmt: skip


def test_min_max_is_of_each_document():
    documents = [[(i, "t", i, i + 1) for i in range(n)] for n in (5, 7, 1)]
    x, y = (made(documents, seed=seed) for seed in (0, 1))
    found = token_correlation(x, y, normalize="min_max")
    for values, whole in ((found.x, x), (found.y, y)):
        for document in range(3):
            mine = whole.surprisal[whole.document == document]
            assert torch.allclose(values[found.document == document], tle.functional.min_max(mine[None])[0])
    assert (found.units, found.quantities) == (("", ""), ("surprisal, min-max",) * 2)
    expected = stats.linregress(found.x.numpy(), found.y.numpy())
    assert found.slope == pytest.approx(expected.slope)
    assert found.pearson == pytest.approx(expected.rvalue)
    scaled = dataclasses.replace(x, surprisal=x.surprisal * (1 + x.document) + 10 * x.document)
    assert token_correlation(scaled, y, normalize="min_max").slope == pytest.approx(found.slope), "what documents differ by"
    assert found.to("bits").slope == found.slope
    with pytest.raises(InputError, match="normalize must be one of None, 'min_max'"):
        token_correlation(x, y, normalize="z")


def cut(text, cuts, *, ids=0):
    """The tokens of a text whose bytes are cut at these places, as a byte-level tokenizer may; each with an id of its own."""
    of_byte = [i for i, character in enumerate(text) for _ in character.encode()]
    ends = [*sorted({place % len(of_byte) for place in cuts} - {0}), len(of_byte)]
    starts = [0, *ends[:-1]]
    return [
        (ids + i, f"piece {ids + i}", of_byte[start], of_byte[end - 1] + 1)
        for i, (start, end) in enumerate(zip(starts, ends, strict=True))
    ]


texts_ = st.text("ab é€😀", min_size=1, max_size=10)
cuts_ = st.lists(st.integers(1, 40), max_size=12)


def by_loops(values, source, target, text, how):
    """The definition, character by character."""
    on_text, counts = [0.0] * len(text), [0] * len(text)
    for _, _, start, end in source:
        for c in range(start, end):
            counts[c] += 1
    for value, (_, _, start, end) in zip(values, source, strict=True):
        weights = [1 / counts[c] for c in range(start, end)]
        for c, weight in zip(range(start, end), weights, strict=True):
            on_text[c] += value * weight / (sum(weights) if how == "sum" else 1)
    sharing = [sum(start <= c < end for _, _, start, end in target) for c in range(len(text))]
    found = []
    for _, _, start, end in target:
        parts = [(on_text[c], 1 / sharing[c]) for c in range(start, end)]
        total = sum(value * weight for value, weight in parts)
        found.append(total if how == "sum" else total / sum(weight for _, weight in parts))
    return found


@given(st.lists(st.tuples(texts_, cuts_, cuts_), min_size=1, max_size=3), st.sampled_from(("sum", "mean")))
def test_any_two_cuts_of_texts(documents, how):
    texts = [text for text, *_ in documents]
    ones = [cut(text, cuts) for text, cuts, _ in documents]
    others = [cut(text, cuts, ids=100) for text, _, cuts in documents]
    source, target = made(ones, texts=texts, model="a"), made(others, texts=texts, model="b", seed=1)
    aligned = align_tokens(source, target, of=("surprisal", "entropy"), how=how)
    assert aligned.n_tokens == target.n_tokens
    assert (aligned.provenance.model, aligned.target.model) == ("a", "b")
    for d, text in enumerate(texts):
        for j, values in enumerate((source.surprisal, source.entropy)):
            here, there = values[source.document == d], aligned.values[target.document == d, j]
            np.testing.assert_allclose(there, by_loops(here.tolist(), ones[d], others[d], text, how), rtol=1e-12)
            if how == "sum":
                assert math.isclose(there.sum(), here.sum(), rel_tol=1e-12)
            else:
                assert here.min() - 1e-12 <= there.min() <= there.max() <= here.max() + 1e-12


@given(texts_, cuts_, cuts_, st.sets(st.integers(0, 6)), st.booleans(), st.sampled_from(("sum", "mean")))
def test_with_tokens_missing_what_has_a_value_has_the_right_one(text, cuts, other_cuts, missing, in_source, how):
    whole = made([cut(text, cuts)], texts=[text]), made([cut(text, other_cuts, ids=100)], texts=[text], seed=1)
    expected = align_tokens(*whole, how=how).values
    rows = whole[0 if in_source else 1]
    missing = {p % (rows.n_tokens + 1) for p in missing}  # so that the last one goes, too
    kept = [p for p in range(rows.n_tokens) if p not in missing] or [0]
    parts = (rows.select(positions=kept), whole[1]) if in_source else (whole[0], rows.select(positions=kept))
    found = align_tokens(*parts, how=how).values
    expected = expected if in_source else expected[kept]
    known = ~found.isnan()
    torch.testing.assert_close(found[known], expected[known], rtol=1e-12, atol=1e-12)
    lost = set(range(rows.n_tokens)) - set(kept)
    if not lost:
        assert known.all()
    if in_source:  # what stands for a character of a token that is not there has no value
        gone = {c for p in lost for c in range(*rows.span[p].tolist())}
        for row, (start, end) in enumerate(whole[1].span.tolist()):
            if gone & set(range(start, end)):
                assert not known[row]


def test_a_first_token_without_bos_has_no_value_and_no_other_is_lost():
    text = "the cat sat"
    source = [(0, "the", 0, 3), (1, " cat", 3, 7), (2, " sat", 7, 11)]
    target = [(10, "th", 0, 2), (11, "e c", 2, 5), (12, "at", 5, 7), (13, " sat", 7, 11)]
    with_bos = made([target], texts=[text])
    for bos, expected in ((True, [2.0, 3.0, 2.0, 4.0]), (False, [NAN, NAN, 2.0, 4.0])):
        one = made([source], bos=bos, texts=[text], values=[3.0, 4.0, 4.0][not bos :])
        np.testing.assert_allclose(align_tokens(one, with_bos).values[:, 0], expected)
    without = made([target], bos=False, texts=[text])
    one = made([source], texts=[text], values=[3.0, 4.0, 4.0])
    np.testing.assert_allclose(align_tokens(one, without).values[:, 0], [3.0, 2.0, 4.0])


def test_a_character_shared_with_a_token_that_is_not_there_has_no_value():
    text = "😀 a"
    source = [(i, "�", 0, 1) for i in range(3)] + [(3, " a", 1, 3)]
    target = [(10, "😀", 0, 1), (11, " ", 1, 2), (12, "a", 2, 3)]
    values = [1.0, 2.0, 3.0, 4.0]
    assert align_tokens(made([source], texts=[text], values=values), made([target], texts=[text])).values[:, 0].tolist() == [
        6,
        2,
        2,
    ]
    part = made([source], bos=False, texts=[text], values=values[1:])
    np.testing.assert_array_equal(align_tokens(part, made([target], texts=[text])).values[:, 0], [NAN, 2, 2])
    back = align_tokens(made([target], texts=[text], values=[6.0, 2.0, 2.0]), part).values[:, 0]
    np.testing.assert_array_equal(back, [NAN, NAN, 4])


def test_a_prefix_token_that_is_not_there_shares_the_first_character():
    prefixed, whole = [(0, "▁", 0, 1), (1, "cat", 0, 3)], [(10, "c", 0, 1), (11, "at", 1, 3)]
    part = made([prefixed], bos=False, texts=["cat"], values=[3.0])
    assert align_tokens(part, made([whole], texts=["cat"])).values.isnan().all()


def test_a_tail_that_is_not_there_may_share_the_last_character():
    text = "a😀b"
    source = made([[(0, "a", 0, 1), (1, "�", 1, 2), (2, "�b", 1, 3)]], texts=[text], values=[1.0, 2.0, 3.0])
    target = made([[(10, "a", 0, 1), (11, "😀", 1, 2), (12, "b", 2, 3)]], texts=[text])
    np.testing.assert_array_equal(align_tokens(source.select(positions=[0, 1]), target).values[:, 0], [1, NAN, NAN])
    plain = made([[(0, "a", 0, 1), (1, "b", 1, 2), (2, "c", 2, 3)]], texts=["abc"], values=[1.0, 2.0, 3.0])
    halves = made([[(10, "ab", 0, 2), (11, "c", 2, 3)]], texts=["abc"])
    np.testing.assert_array_equal(align_tokens(plain.select(positions=[0, 1]), halves).values[:, 0], [3, NAN])


def test_the_same_ids_at_other_places_are_other_tokens():
    one = made([[(0, "[UNK]", 0, 1), (0, "[UNK]", 1, 4)]], texts=["éabc"], values=[1.0, 3.0])
    other = made([[(0, "[UNK]", 0, 2), (0, "[UNK]", 2, 4)]], texts=["éabc"])
    assert align_tokens(one, other).values[:, 0].tolist() == [2, 2]


def test_the_same_tokens_go_row_by_row_even_where_they_share_a_character():
    text = "😀 a"
    tokens = [(i, f"<{i}>", 0, 1) for i in range(3)] + [(3, " a", 1, 3)]
    source = made([tokens], texts=[text], values=[1.0, 2.0, 3.0, 4.0])
    found = align_tokens(source, made([tokens], texts=[text], seed=1), of=("surprisal", "rank"))
    assert found.values[:, 0].tolist() == [1, 2, 3, 4]
    assert found.values[:, 1].equal(source.rank.double())
    assert found.how is None
    headless = made([tokens], bos=False, texts=[text], values=[2.0, 3.0, 4.0])
    np.testing.assert_array_equal(align_tokens(headless, source).values[:, 0], [NAN, 2, 3, 4])
    assert align_tokens(source, headless).values[:, 0].tolist() == [2, 3, 4]
    other_words = [(token, text.upper() + "!", start, end) for token, text, start, end in tokens]
    spread = align_tokens(source, made([other_words], texts=[text]))  # equal ids mean nothing in another vocabulary
    assert spread.how == "sum"
    assert spread.values[:, 0].tolist() == [2, 2, 2, 4]


def test_texts_that_are_not_known_need_the_same_tokens():
    tokens = [[(5, "a", -1, -1), (6, "b", -1, -1), (5, "a", -1, -1)], [(6, "b", -1, -1)]]
    source = made(tokens, values=[1.0, 2.0, 3.0, 4.0])
    assert align_tokens(source, made(tokens, seed=3)).values[:, 0].tolist() == [1, 2, 3, 4]
    known = made([[(5, "a", 0, 1), (6, "b", 1, 2), (5, "a", 2, 3)], [(6, "b", 0, 1)]], texts=["aba", "b"])
    assert align_tokens(source, known).values[:, 0].tolist() == [1, 2, 3, 4]
    changed = made([tokens[0], [(5, "a", -1, -1)]])
    with pytest.raises(InputError, match="different tokens in document 1, and its text is not known to both"):
        align_tokens(source, changed)
    longer = made([[*tokens[0], (6, "b", -1, -1)], tokens[1]])
    for pair in ((source, longer), (longer, source)):
        with pytest.raises(InputError, match="different tokens in document 0, and its text is not known to both"):
            align_tokens(*pair)
    other = made([[(t, s.upper(), *rest) for t, s, *rest in document] for document in tokens])
    with pytest.raises(InputError, match="different tokens in document 0"):
        align_tokens(source, other)


def test_documents_that_one_side_cannot_predict():
    one, other = [[(0, "a", 0, 1)], [(1, "b", 0, 1), (2, "c", 1, 2)]], [[(0, "a", 0, 1)], [(9, "bc", 0, 2)]]
    headless, target = made(one, bos=False, texts=["a", "bc"]), made(other, texts=["a", "bc"])
    assert headless.documents == (1,)
    assert align_tokens(headless, target).values.isnan().all()  # "a" has no row, and "c" is but a part of "bc"
    assert align_tokens(target, headless).values[:, 0].tolist() == [target.surprisal[1].item() / 2]


def test_units_travel():
    text = "ab"
    source = made([cut(text, [1])], texts=[text])
    target = made([cut(text, [], ids=10)], texts=[text]).to("bits")
    found = align_tokens(source.to("bits"), target, of=("surprisal", "varentropy"))
    assert (found.unit, found.units) == ("bits", ("bits", "bits²"))
    nats = align_tokens(source, target, of=("surprisal", "varentropy"))
    assert (nats.unit, nats.units) == ("nats", ("nats", "nats²"))
    torch.testing.assert_close(nats.to("bits").values, found.values)
    torch.testing.assert_close(found.to("nats").values[0], torch.stack([source.surprisal.sum(), source.varentropy.sum()]))
    assert align_tokens(source, target, of="rank", how="mean").units == ("",)


class Tokenizers:
    """Real ones: byte-level BPE of two sizes, and words with unknown ones."""

    TEXTS = (
        "the cat 😀 sat on 👩‍👩‍👧 the mat",
        "naïve café, 東京 and 🇫🇷!",
        "😀😀 the dog\n\n  and é",
        "zebra 🦓🦓",
    )

    @staticmethod
    def trained(kind, size=0):
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers

        if kind == "words":
            tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1, "cat": 2, "and": 3, "!": 4}, unk_token="[UNK]"))
            tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
            return tokenizer
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator([*Tokenizers.TEXTS, "the mat and the cat"] * 3, trainer)
        return tokenizer

    @classmethod
    def result(cls, kind, size=0, **options):
        tokenizer = cls.trained(kind, size)
        documents = []
        for text in cls.TEXTS:
            encoded = tokenizer.encode(text)
            spans = covering_spans(torch.tensor(encoded.offsets), text).tolist()
            documents.append([(i, f"{kind}{size} {i}", start, end) for i, (start, end) in zip(encoded.ids, spans, strict=True)])
        return made(documents, texts=cls.TEXTS, **options)


KINDS = (("bytes", 258), ("bytes", 275), ("bytes", 330), ("words", 0))


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(KINDS, 2)))
def test_real_tokenizers_conserve_the_sum_of_each_text(one, other):
    source, target = Tokenizers.result(*one), Tokenizers.result(*other, seed=1)
    found = align_tokens(source, target)
    assert not found.values.isnan().any()
    for d in source.documents:
        assert math.isclose(
            found.values[found.document == d].sum(), source.surprisal[source.document == d].sum(), rel_tol=1e-12
        )
    headless = align_tokens(Tokenizers.result(*one, bos=False), target)
    lost = headless.values[:, 0].isnan()
    assert lost.any()
    assert (headless.position[lost] < 9).all()
    whole = Tokenizers.result(*one)
    same = dataclasses.replace(whole, surprisal=torch.zeros_like(whole.surprisal)).select(positions=slice(1, None))
    assert align_tokens(same, target).values[~lost].eq(0).all()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"source": "text"},
            InputTypeError,
            "source must be a result with a row for each token, such as of token_surprisal; got str",
        ),
        ({"target": None}, InputTypeError, "target must be .* got NoneType"),
        ({"how": "median"}, InputError, "how must be one of 'sum', 'mean'; got 'median'"),
        ({"of": "height"}, InputError, "of: height not in this result; it has surprisal, entropy"),
        ({"of": ()}, InputError, "of is empty; choose from surprisal, entropy"),
        ({"of": "rank"}, InputError, "how='sum' is for what adds up, and rank does not; take how='mean'"),
        ({"target": ["ab", "cd", "e"]}, InputError, "document 2 is not in source: narrow the other with select"),
        ({"target": ["ab"]}, InputError, "document 1 is not in target"),
        ({"target": ["ab", "cxd"]}, InputError, r"those of document 1 differ from character 1 on \('d' and 'xd'\)"),
        ({"target": ["ab", "cde"]}, InputError, r"those of document 1 differ from character 2 on \('' and 'e'\)"),
    ],
)
def test_what_alignment_refuses(changes, error, message):
    texts = ["ab", "cd"]
    options = {"source": made([cut(text, []) for text in texts], texts=texts), "target": texts, **changes}
    source, target = options.pop("source"), options.pop("target")
    if isinstance(target, list):
        target = made([cut(text, [1], ids=10) for text in target], texts=target)
    with pytest.raises(error, match=message):
        align_tokens(source, target, **options)


STEPS = torch.arange(37.0)  # as many as the tokens of two()


def two(lengths=(6, 9, 4, 11, 7), *, slope=0.8, seed=0, noise=1.0):
    """Two results of the same tokens, y = 1 + slope·x + noise that the tokens of a document share in part."""
    rng = np.random.default_rng(seed)
    documents = [[(p % 5, f"t{p % 5}", p, p + 1) for p in range(n)] for n in lengths]
    texts = ["x" * n for n in lengths]
    level = np.repeat(rng.normal(size=len(lengths)), lengths)
    x = 3 + rng.normal(size=sum(lengths)) + level
    y = 1 + slope * x + noise * (rng.normal(size=sum(lengths)) + np.repeat(rng.normal(size=len(lengths)), lengths))
    return made(documents, texts=texts, values=x, model="a"), made(documents, texts=texts, values=y, model="b", seed=1)


def test_the_line_and_correlations_are_those_of_scipy():
    one, other = two()
    found = token_correlation(one, other)
    x, y = one.surprisal.numpy(), other.surprisal.numpy()
    line = stats.linregress(x, y)
    np.testing.assert_allclose(
        [found.slope, found.intercept, found.pearson, found.r_squared],
        [line.slope, line.intercept, line.rvalue, line.rvalue**2],
        rtol=1e-12,
    )
    np.testing.assert_allclose(found.spearman, stats.spearmanr(x, y).statistic, rtol=1e-12)
    np.testing.assert_array_equal(found.x, x)
    np.testing.assert_array_equal(found.y, y)
    assert (found.left_out, found.how, found.unit, found.models) == (0, None, "nats", ("a", "b"))
    assert found.document.equal(other.document)
    ranks = token_correlation(one, other, of=("rank", "rank"))  # with ties
    expected = stats.spearmanr(one.rank, other.rank).statistic
    np.testing.assert_allclose(ranks.spearman, expected, rtol=1e-12)


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_errors_are_the_sandwich_and_the_jackknife_over_documents(shift):
    one, other = two()
    one = dataclasses.replace(one, surprisal=one.surprisal + shift)
    found = token_correlation(one, other)
    x, y, document = one.surprisal.numpy(), other.surprisal.numpy(), one.document.numpy()
    z = np.stack([np.ones_like(x), x], 1)
    bread = np.linalg.inv(z.T @ z)
    residuals = y - found.intercept - found.slope * x
    meat = np.zeros((2, 2))
    for d in range(5):
        score = sum(z[i] * residuals[i] for i in range(len(x)) if document[i] == d)
        meat += np.outer(score, score)
    errors = np.sqrt(np.diag(bread @ meat @ bread) * 5 / 4)
    np.testing.assert_allclose([found.intercept_error, found.slope_error], errors, rtol=1e-9 if not shift else 1e-4)
    without = [stats.pearsonr(x[document != d], y[document != d]).statistic for d in range(5)]
    values = torch.tensor([found.pearson, *without], dtype=torch.float64)
    sizes = torch.tensor(np.bincount(document))
    np.testing.assert_allclose(found.pearson_error, jackknife_error(values, sizes).item(), rtol=1e-8)
    fold = balanced_folds(sizes, 2).numpy()[document]
    halves = [stats.pearsonr(x[fold != f], y[fold != f]).statistic for f in range(2)]
    expected = jackknife_error(torch.tensor([found.pearson, *halves]), torch.tensor(np.bincount(fold))).item()
    np.testing.assert_allclose(token_correlation(one, other, folds=2).pearson_error, expected, rtol=1e-6)


def test_values_far_from_zero_keep_their_digits():
    one, other = two()
    near, far = token_correlation(one, other), token_correlation(dataclasses.replace(one, surprisal=one.surprisal + 1e7), other)
    for name in ("slope", "pearson", "spearman", "slope_error", "pearson_error"):
        assert math.isclose(getattr(far, name), getattr(near, name), rel_tol=1e-6), name


@pytest.mark.long
def test_errors_are_about_the_spread_of_repeated_measurements():
    lengths = (8,) * 40
    found = [token_correlation(*two(lengths, seed=seed)) for seed in range(150)]
    for name in ("slope", "intercept", "pearson"):
        values = np.array([getattr(each, name) for each in found])
        errors = np.array([getattr(each, f"{name}_error") for each in found])
        assert 0.8 < errors.mean() / values.std() < 1.2, name
    x, y = (torch.cat([getattr(each, name) for each in found[:1]]).numpy() for name in "xy")
    assert stats.linregress(x, y).stderr < 0.8 * found[0].slope_error  # which takes tokens for independent


def test_one_document_has_no_errors():
    found = token_correlation(*two((12,)))
    assert all(math.isnan(error) for error in (found.slope_error, found.intercept_error, found.pearson_error))
    assert math.isfinite(found.slope)


def test_two_quantities_of_one_result():
    one, _ = two()
    found = token_correlation(one, one, of=("entropy", "varentropy"))
    assert (found.quantities, found.units, found.slope_unit) == (("entropy", "varentropy"), ("nats", "nats²"), "nats²/nats")
    assert math.isclose(found.slope, stats.linregress(one.entropy, one.varentropy).slope)
    itself = token_correlation(one, one)
    np.testing.assert_allclose([itself.slope, itself.intercept, itself.pearson, itself.spearman], [1, 0, 1, 1], atol=1e-12)


def test_bits_are_those_of_y():
    one, other = two()
    nats, bits = token_correlation(one, other), token_correlation(one, other.to("bits"))
    assert (bits.unit, bits.units) == ("bits", ("bits", "bits"))
    for name in ("slope", "intercept", "slope_error", "intercept_error", "pearson", "pearson_error"):
        assert math.isclose(getattr(bits, name), getattr(nats.to("bits"), name), rel_tol=1e-12), name
    assert math.isclose(bits.intercept, nats.intercept / math.log(2))
    assert token_correlation(one.to("bits"), other, of=("surprisal", "rank")).units == ("bits", "")


def test_on_whose_tokens():
    one, other = Tokenizers.result("bytes", 258), Tokenizers.result("words", seed=1)
    on_y, on_x = token_correlation(one, other), token_correlation(one, other, on="x")
    assert (on_y.n_tokens, on_x.n_tokens) == (other.n_tokens, one.n_tokens)
    torch.testing.assert_close(on_y.x, align_tokens(one, other).values[:, 0])
    torch.testing.assert_close(on_x.y, align_tokens(other, one).values[:, 0])
    assert on_y.y.equal(other.surprisal)
    assert (on_y.how, on_x.how, on_x.on) == ("sum", "sum", "x")
    assert on_x.tokens()[0] == "bytes258 " + str(one.token[0].item())
    mean = token_correlation(one, other, of="rank", how="mean")
    torch.testing.assert_close(mean.x, align_tokens(one, other, of="rank", how="mean").values[:, 0])


def test_tokens_without_a_value_are_left_out_and_counted():
    one, other = two()
    part = one.select(positions=slice(1, None))
    found = token_correlation(part, other)
    assert (found.left_out, found.n_tokens) == (5, other.n_tokens - 5)
    assert (found.position > 0).all()
    later = other.position > 0
    assert math.isclose(found.slope, stats.linregress(one.surprisal[later], other.surprisal[later]).slope)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({"surprisal": torch.full((37,), 0.1)}, {}, InputError, "x: its surprisal is 0.1 for all 37 tokens"),
        ({"surprisal": 0.1 + 1e-15 * torch.rand(37, dtype=torch.float64)}, {}, InputError, "x: its surprisal is 0.1"),
        ({"surprisal": torch.zeros(37)}, {}, InputError, "x: its surprisal is 0 for all"),
        ({"surprisal": STEPS.where(STEPS != 7, torch.inf)}, {}, NonFiniteError, "position 1 of document 1"),
        ({"surprisal": STEPS.where(STEPS < 2, NAN)}, {}, InputError, "x and y have 2 tokens .* at least 3"),
        ({}, {"of": ("a", "b", "c")}, InputError, "of must be one quantity, or two"),
        ({}, {"of": ("entropy", "height")}, InputError, "of: height not in this result"),
        ({}, {"on": "z"}, InputError, "on must be one of 'x', 'y'"),
        ({}, {"folds": 1}, InputError, "folds must be an int of at least 2"),
    ],
)  # fmt: skip
def test_what_correlation_refuses(change, options, error, message):
    one, other = two()
    with pytest.raises(error, match=message):
        token_correlation(dataclasses.replace(one, **change), other, **options)


def test_constant_y_is_named():
    one, other = two()
    with pytest.raises(InputError, match="y: its entropy is 2 for all"):
        token_correlation(one, dataclasses.replace(other, entropy=torch.full((37,), 2.0)), of=("surprisal", "entropy"))


@pytest.mark.model
@pytest.mark.parametrize("kind", kinds())
def test_two_models(kind):
    texts = [*Tokenizers.TEXTS, "def f(x):\n    return x + 1\n" * 6]  # the last one is longer than a window
    one = tle.token_surprisal(tle.demo_model(), texts, progress=False)
    other = tle.token_surprisal(cached_model("gpt2", kind), texts, progress=False)
    found = align_tokens(one, other)
    for d in one.documents:
        assert math.isclose(found.values[found.document == d].sum(), one.surprisal[one.document == d].sum(), rel_tol=1e-9)
    pairs = token_correlation(one, other)
    assert (pairs.n_tokens, pairs.left_out) == (other.n_tokens, 0)
    line = stats.linregress(found.values[:, 0], other.surprisal)
    np.testing.assert_allclose([pairs.slope, pairs.r_squared], [line.slope, line.rvalue**2], rtol=1e-9)
    headless = tle.token_surprisal(tle.demo_model(), texts, prepend_bos=False, progress=False)
    assert token_correlation(headless, other).left_out >= len(texts)


def test_a_last_token_that_is_missing_takes_its_share_with_it():
    text = "a😀"
    source = [(0, "a", 0, 1), (1, "�", 1, 2), (2, "�", 1, 2)]
    target = [(10, "a", 0, 1), (11, "😀", 1, 2)]
    whole = made([source], texts=[text], values=[1.0, 2.0, 3.0])
    other = made([target], texts=[text])
    np.testing.assert_array_equal(align_tokens(whole, other).values[:, 0], [1, 5])
    np.testing.assert_array_equal(align_tokens(whole.select(positions=slice(0, -1)), other).values[:, 0], [1, NAN])


def test_the_jackknife_of_what_is_constant_without_one_document_is_nan():
    documents = [[(0, "a", 0, 1), (1, "b", 1, 2)]] * 5
    varying = [0.0] * 8 + [1.0, 2.0]
    x = made(documents, texts=["ab"] * 5, values=varying)
    y = made(documents, texts=["ab"] * 5, seed=1)
    found = token_correlation(x, y)
    assert math.isfinite(found.pearson)
    assert math.isnan(found.pearson_error)


@pytest.mark.parametrize("of", [None, 3])
def test_quantities_that_are_no_names(of):
    one = made([[(0, "a", 0, 1)] * 4], texts=["a"])
    with pytest.raises(InputTypeError, match="of must be the name of a quantity"):
        align_tokens(one, one, of=of)
    with pytest.raises(InputTypeError, match="of must be the name of a quantity"):
        token_correlation(one, one, of=of)
