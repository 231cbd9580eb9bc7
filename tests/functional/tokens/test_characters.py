"""Values through characters against plain loops in fractions, what must be conserved, and the offsets of real tokenizers."""

from __future__ import annotations

import itertools
import math
import warnings
from fractions import Fraction

import pytest
import torch
from hypothesis import given, strategies as st
from spans import MAKERS, TEXTS, any_spans, exact_covering, lengths, made, offsets, sharers, tensor, tilings
from tiny_models import tiny_tokenizer

from tl_entropy.errors import InputError, InputTypeError
from tl_entropy.functional.tokens.characters import covering_spans, transfer
from tl_entropy.functional.tokens.sizes import token_sizes


def exact_transfer(values, source, target, length, how):
    of_source, of_target = sharers(source, length), sharers(target, length)
    weights = [sum(Fraction(1, len(of_source[c])) for c in range(start, end)) for start, end in source]
    on_text = []
    for owners in of_source:
        if not owners or any(math.isnan(values[i]) for i in owners):
            on_text.append(None)
        elif how == "sum":
            on_text.append(sum(Fraction(values[i]) * Fraction(1, len(owners)) / weights[i] for i in owners))
        else:
            on_text.append(sum(Fraction(values[i]) for i in owners) / len(owners))
    found = []
    for start, end in target:
        cells = [(on_text[c], Fraction(1, len(of_target[c]))) for c in range(start, end)]
        if any(value is None for value, _ in cells) or (how == "mean" and not cells):
            found.append(math.nan)
        else:
            total = sum((value * weight for value, weight in cells), Fraction(0))
            found.append(float(total if how == "sum" else total / sum(weight for _, weight in cells)))
    return torch.tensor(found, dtype=torch.float64)


def assert_same(found, expected, tolerance=1e-12):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance, equal_nan=True)


values_of = st.floats(-50, 50, allow_subnormal=False)


@st.composite
def problems(draw, *, covering=False, nan=False):
    """(values, source, target, length), the source without tokens of zero width."""
    length = draw(lengths)
    source, target = draw(any_spans(length, 1)), draw(any_spans(length, 1))
    if covering:
        source, target = (covering_spans(tensor(part), "x" * length).tolist() for part in (source, target))
    else:
        source = [span for span in source if span[0] < span[1]]
    elements = values_of | st.just(math.nan) if nan else values_of
    return draw(st.lists(elements, min_size=len(source), max_size=len(source))), source, target, length


def move(values, source, target, length, how="sum"):
    return transfer(torch.tensor(values, dtype=torch.float64), tensor(source), tensor(target), length, how=how)


@given(st.data())
def test_covering_is_what_plain_loops_find(data):
    length = data.draw(lengths)
    spans = data.draw(any_spans(length, 1))
    found = covering_spans(tensor(spans), "x" * length)
    assert [set(range(start, end)) for start, end in found.tolist()] == exact_covering(spans, length)
    assert torch.equal(covering_spans(found, length), found), "nothing is left to be done"
    assert bool((found.diff(dim=0)[:, 0] >= 0).all()), "still in the order of the text"
    assert found.dtype == torch.long


@given(st.text("ab \u0301\u0323\u1112\u1161\u11ab", min_size=1, max_size=12), st.data())
def test_what_continues_a_character_goes_with_it(text, data):
    spans = data.draw(any_spans(len(text), 1))
    found = covering_spans(tensor(spans), text)
    assert [set(range(start, end)) for start, end in found.tolist()] == exact_covering(spans, len(text), text)
    assert torch.equal(covering_spans(found, text), found), "nothing is left to be done"


@pytest.mark.parametrize(
    ("text", "spans", "expected"),
    [
        ("cafe\u0301 on", [[0, 3], [3, 4], [3, 4], [5, 8]], [[0, 3], [3, 5], [3, 5], [5, 8]]),
        ("e\u0301", [[0, 1], [0, 1]], [[0, 2], [0, 2]]),
        ("e\u0301 a", [[0, 1], [3, 4]], [[0, 2], [2, 4]]),  # the space is not part of the letter
        ("\u1112\u1161\u11ab\u1100", [[0, 1], [0, 1], [3, 4]], [[0, 3], [0, 3], [3, 4]]),
        ("e\u0301", [[0, 1], [1, 2]], [[0, 1], [1, 2]]),  # an accent that is a token keeps its place
        ("\u0301e", [[1, 2]], [[0, 2]]),  # one that continues nothing goes to what follows, as anything does
        ("ae\u0301", [[0, 0], [2, 2]], [[0, 1], [0, 3]]),
        ("x\ufe0f y", [[0, 1], [2, 4]], [[0, 2], [2, 4]]),  # a variation selector
    ],
)
def test_continued_characters_by_hand(text, spans, expected):
    assert covering_spans(tensor(spans), text).tolist() == expected


@pytest.mark.parametrize(
    ("spans", "length", "expected"),
    [
        ([[0, 2], [2, 5]], 5, [[0, 2], [2, 5]]),
        ([[2, 3], [5, 6]], 8, [[0, 3], [3, 8]]),
        ([[0, 1], [2, 2], [2, 3]], 3, [[0, 1], [1, 2], [2, 3]]),  # the trimmed space before an emoji is the lone "Ġ"
        ([[0, 1], [1, 1], [1, 2]], 2, [[0, 1], [1, 2], [1, 2]]),
        ([[0, 2], [2, 2]], 2, [[0, 2], [1, 2]]),
        ([[0, 1], [1, 2], [1, 2], [1, 2], [1, 2]], 3, [[0, 1], [1, 2], [1, 2], [1, 2], [1, 3]]),
        ([[0, 5], [2, 3]], 6, [[0, 6], [2, 3]]),
        ([[0, 0]], 3, [[0, 3]]),
        ([[0, 0], [0, 0]], 0, [[0, 0], [0, 0]]),
        ([], 0, []),
    ],
)
def test_covering_by_hand(spans, length, expected):
    given_spans = tensor(spans)
    assert covering_spans(given_spans, "x" * length).tolist() == expected
    assert given_spans.tolist() == spans, "the argument is left alone"


@given(st.data())
def test_a_length_does_as_a_text_does_and_says_what_it_cannot_tell(data):
    length = data.draw(lengths)
    spans = data.draw(any_spans(length, 1))
    owners = sharers(spans, length)
    ends = [end for _, end in spans if end > 0]
    unknown = sum(not owners[c] and any(end <= c for end in ends) for c in range(length))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = covering_spans(tensor(spans), length)
    assert torch.equal(found, covering_spans(tensor(spans), "x" * length))
    assert [str(warning.message).split(" of the text")[0] for warning in caught] == (
        [f"no token covers {unknown} character{'s' * (unknown != 1)}"] if unknown else []
    )
    assert all(warning.filename == __file__ for warning in caught)


@given(problems(nan=True), st.sampled_from(["sum", "mean"]))
def test_transfer_is_what_plain_loops_find(problem, how):
    assert_same(move(*problem, how=how), exact_transfer(*problem, how))


@given(problems(covering=True))
def test_sums_are_conserved(problem):
    values = problem[0]
    assert move(*problem).sum().item() == pytest.approx(math.fsum(values), rel=1e-12, abs=1e-11)


@given(st.data(), st.sampled_from(["sum", "mean"]))
def test_a_tokenizer_gives_its_own_values_back(data, how):
    length = data.draw(lengths)
    spans = data.draw(tilings(length))
    values = data.draw(st.lists(values_of, min_size=len(spans), max_size=len(spans)))
    assert_same(move(values, spans, spans, length, how), torch.tensor(values, dtype=torch.float64), 1e-14)


@given(problems(covering=True), values_of)
def test_the_mean_of_a_constant_is_the_constant(problem, constant):
    values, source, target, length = problem
    found = move([constant] * len(values), source, target, length, "mean")
    assert_same(found, torch.full((len(target),), constant, dtype=torch.float64), 1e-13)


@given(problems(covering=True), st.sampled_from(["sum", "mean"]))
def test_a_detour_through_the_characters_changes_nothing(problem, how):
    values, source, target, length = problem
    characters = [[c, c + 1] for c in range(length)]
    on_text = move(values, source, characters, length, how)
    assert_same(move(on_text.tolist(), characters, target, length, how), move(*problem, how=how), 1e-11)


@given(problems(covering=True))
def test_sums_of_sizes_are_sizes(problem):
    """What a target token stands for is what it is given of what the source tokens stand for."""
    _, source, target, length = problem
    sizes, _ = token_sizes("x" * length, tensor(source))
    expected, _ = token_sizes("x" * length, tensor(target))
    assert_same(transfer(sizes, tensor(source), tensor(target), length), expected, 1e-12)


def test_transfer_by_hand():
    emoji = [[0, 1], [1, 2], [1, 2], [1, 2], [1, 2], [2, 3]]  # five tokens of "a😀b", and a sixth
    losses = [1.0, 5.0, 2.0, 1.0, 0.0, 3.0]
    assert move(losses, emoji, [[0, 2], [2, 3]], 3).tolist() == [9, 3]
    assert move(losses, emoji, [[0, 2], [2, 3]], 3, "mean").tolist() == [1.5, 3]
    assert move(losses, emoji, emoji, 3).tolist() == [1, 2, 2, 2, 2, 3], "what shares a character is alike in it"
    assert move([9.0, 3.0], [[0, 2], [2, 3]], emoji, 3).tolist() == [4.5, 1.125, 1.125, 1.125, 1.125, 3]
    assert move([4.0], [[0, 4]], [[0, 1], [1, 1], [1, 4]], 4).tolist() == [1, 0, 3]
    assert_same(move([4.0], [[0, 4]], [[0, 1], [1, 1], [1, 4]], 4, "mean"), torch.tensor([4, math.nan, 4]).double(), 0)


def test_shared_characters_weigh_less():
    """A token of one character for itself and one that it shares with another keeps two thirds of its value on the first."""
    source = [[0, 2], [1, 2]]
    assert_same(move([3.0, 0.0], source, [[0, 1], [1, 2]], 2), torch.tensor([2.0, 1.0]).double(), 1e-15)
    assert_same(move([3.0, 0.0], source, [[0, 1], [1, 2]], 2, "mean"), torch.tensor([3.0, 1.5]).double(), 1e-15)
    found = move([3.0, 0.0], [[0, 1], [1, 2]], source, 2, "mean")
    assert_same(found, torch.tensor([2.0, 0.0]).double(), 1e-15)


def test_nan_stays_where_it_came_from():
    source, target = [[0, 2], [2, 4], [4, 6]], [[0, 1], [1, 3], [3, 4], [4, 6]]
    for how in ("sum", "mean"):
        found = move([1.0, math.nan, 5.0], source, target, 6, how)
        assert found.isnan().tolist() == [False, True, True, False]
        found = move([1.0, 5.0], [[0, 2], [4, 6]], target, 6, how)
        assert found.isnan().tolist() == [False, True, True, False], "nobody knows what the characters in between have"
        assert move([1.0, math.inf, 5.0], source, target, 6, how).isinf().tolist() == [False, True, True, False]


def test_what_has_no_target_is_left_out():
    assert move([4.0], [[0, 4]], [[0, 1], [3, 4]], 4).tolist() == [1, 1]
    assert move([], [], [], 0).tolist() == []
    assert move([], [], [[0, 1]], 1).isnan().all()


def test_any_dtype_and_gradients():
    values = torch.tensor([1.5, 2.5], dtype=torch.bfloat16, requires_grad=True)
    spans, pieces = tensor([[0, 1], [1, 4]]).int(), tensor([[0, 2], [2, 3], [3, 4]]).to(torch.int16)
    found = transfer(values, spans, pieces, 4)
    assert found.dtype == torch.float64
    found[0].backward()
    assert values.grad.tolist() == pytest.approx([1, 1 / 3], rel=1e-2)
    doubles = torch.tensor([1.5, 2.5], dtype=torch.float64, requires_grad=True)
    for how in ("sum", "mean"):
        assert torch.autograd.gradcheck(lambda v, how=how: transfer(v, spans, pieces, 4, how=how), (doubles,))


def test_a_long_text():
    length = 300_000
    generator = torch.Generator().manual_seed(0)

    def tiling(tokens):
        cuts = torch.randperm(length - 1, generator=generator)[: tokens - 1].add(1).sort().values
        edges = torch.cat([torch.tensor([0]), cuts, torch.tensor([length])])
        return torch.stack([edges[:-1], edges[1:]], 1)

    source, target = tiling(70_000), tiling(50_000)
    values = torch.rand(70_000, generator=generator, dtype=torch.float64)
    found = transfer(values, source, target, length)
    assert found.sum().item() == pytest.approx(values.sum().item(), rel=1e-13)
    rate = torch.repeat_interleave(values / (source[:, 1] - source[:, 0]), source[:, 1] - source[:, 0])
    cumulated = torch.cat([torch.zeros(1, dtype=torch.float64), rate.cumsum(0)])
    assert_same(found, cumulated[target[:, 1]] - cumulated[target[:, 0]], 1e-8)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_real_offsets_can_be_made_to_cover(name, text):
    raw = offsets(name, text)
    if not len(raw):
        assert name == "word piece"
        assert text.isspace(), "it drops them"
        return
    for plain in ("x" * len(text), text):
        spans = covering_spans(raw, plain)
        assert [set(range(*span)) for span in spans.tolist()] == exact_covering(raw.tolist(), len(text), plain)


@pytest.mark.parametrize("text", [text for text in TEXTS if not text.startswith(" ")], ids=ascii)
@pytest.mark.parametrize("prefixed", ["", ", prefixed"])
def test_trimmed_spaces_come_back(text, prefixed):
    trimmed = offsets(f"byte-level{prefixed}{' and' if prefixed else ','} trimmed", text)
    kept = offsets(f"byte-level{prefixed}", text)
    assert torch.equal(covering_spans(trimmed, "x" * len(text)), covering_spans(kept, len(text)))


@pytest.mark.thinned
@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_values_between_real_tokenizers(text):
    generator = torch.Generator().manual_seed(0)
    spans = {name: covering_spans(raw, text) for name in MAKERS if len(raw := offsets(name, text))}
    for source, target in itertools.permutations(spans, 2):
        values = torch.rand(len(spans[source]), generator=generator, dtype=torch.float64) * 10
        for how in ("sum", "mean"):
            found = transfer(values, spans[source], spans[target], len(text), how=how)
            expected = exact_transfer(values.tolist(), spans[source].tolist(), spans[target].tolist(), len(text), how)
            assert_same(found, expected)
            if how == "sum":
                assert found.sum().item() == pytest.approx(values.sum().item(), rel=1e-13)


@pytest.mark.parametrize("text", TEXTS, ids=ascii)
def test_the_offsets_of_transformers(text):
    raw = tensor(tiny_tokenizer()(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"])
    assert torch.equal(covering_spans(raw, len(text)), raw), "they cover the text as they are"


def test_special_tokens_are_refused():
    text = "the cat"
    with_special = tensor(made("word piece").encode(text).offsets)
    assert with_special[0].tolist() == with_special[-1].tolist() == [0, 0]
    with pytest.raises(InputError, match=r"token 3 \[0, 0\] begins before the one that comes first \[4, 7\]: leave special"):
        covering_spans(with_special, len(text))
    with pytest.raises(InputError, match="token 0 has none, so its value would be lost"):
        transfer(torch.ones(3), with_special[:-1], tensor([[0, 7]]), len(text))


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([[-1, 2]], r"token 0 has \[-1, 2\]"),
        ([[0, 1], [3, 2]], r"token 1 has \[3, 2\]"),
        ([[0, 6]], r"0 <= start <= end <= 5.*token 0 has \[0, 6\].*in characters, not bytes"),
        ([[2, 3], [1, 4]], r"token 1 \[1, 4\] begins before"),
    ],
)
def test_spans_that_cannot_be(spans, message):
    whole = tensor([[0, 5]])
    for call in (
        lambda: covering_spans(tensor(spans), 5),
        lambda: token_sizes("12345", tensor(spans)),
        lambda: transfer(torch.ones(len(spans)), tensor(spans), whole, 5),
        lambda: transfer(torch.ones(1), whole, tensor(spans), 5),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_errors():
    whole = tensor([[0, 5]])
    with pytest.raises(InputError, match="spans must hold at least one token for a text of 5 characters; got none"):
        covering_spans(tensor([]), 5)
    with pytest.raises(InputTypeError, match=r"spans must be an integer tensor .* got list"):
        covering_spans([(0, 5)], 5)
    for wrong in (torch.tensor([]), torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.complex64)):
        with pytest.raises(InputTypeError, match=r"got torch\..*: build it as torch.tensor\(offsets, dtype=torch.long\)"):
            covering_spans(wrong, 5)
    for wrong in (
        torch.zeros(2, dtype=torch.long),
        torch.zeros(1, 4, 2, dtype=torch.long),
        torch.zeros(2, 3, dtype=torch.long),
    ):
        with pytest.raises(InputError, match=r"spans must be \[token, 2\], the tokens of one text; got the shape"):
            covering_spans(wrong, 5)
    with pytest.raises(InputTypeError, match="length must be an int"):
        covering_spans(whole, 5.0)
    with pytest.raises(InputError, match="length must be an int of at least 0"):
        transfer(torch.ones(1), whole, whole, -1)
    with pytest.raises(InputError, match="how must be one of 'sum', 'mean'; got 'max'"):
        transfer(torch.ones(1), whole, whole, 5, how="max")
    with pytest.raises(InputError, match=r"values must be \[1\], one a token of source_spans; got the shape \[2\]"):
        transfer(torch.ones(2), whole, whole, 5)
    with pytest.raises(InputError, match=r"got the shape \[\]"):
        transfer(torch.tensor(1.0), whole, whole, 5)
    with pytest.raises(InputTypeError, match="values must be a floating-point tensor"):
        transfer(torch.ones(1, dtype=torch.long), whole, whole, 5)
