"""Which sites are compared, what becomes of massive states, and which models may be read side by side."""

from __future__ import annotations

import pytest
import torch
from tiny_models import VOCAB, cached_model, kinds

import tl_entropy as tle
from tl_entropy.analyses.states.paired_states import PairedStates, check_shared_tokens, massive_rows
from tl_entropy.batches import Batch
from tl_entropy.errors import InputError, InputTypeError, NonFiniteError
from tl_entropy.sites import Site

pytestmark = pytest.mark.model

EMBED, FIRST, LAST = Site("embed", -1), Site("resid_post", 0), Site("resid_post", 2)


@pytest.fixture
def one():
    return tle.Adapter(cached_model("gpt2", kinds()[0]))


@pytest.fixture
def two():
    return tle.Adapter(cached_model("gpt2", kinds()[0], True))


def batch_of(tokens, counted=None):
    tokens = torch.as_tensor(tokens)
    whole = torch.ones_like(tokens, dtype=torch.bool)
    position = torch.arange(tokens.shape[1]).expand_as(tokens)
    return Batch(
        tokens=tokens, attention_mask=whole, counted=whole if counted is None else torch.as_tensor(counted), position=position,
        target=torch.full_like(tokens, -1), document=torch.arange(len(tokens)), last=torch.ones(len(tokens), dtype=torch.bool),
        names=(None,) * len(tokens), texts=(None,) * len(tokens), bodies=tuple(tokens),
    )  # fmt: skip


def states(batch, d=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {site: torch.randn(*batch.tokens.shape, d, generator=generator) for site in (EMBED, FIRST, LAST)}


# --- sites


@pytest.mark.parametrize(
    ("against", "columns", "name"),
    [
        ("output", [LAST], "output"),
        ("all", [EMBED, FIRST], "all"),
        ("resid_post.1", [Site("resid_post", 1)], "resid_post.1"),
        (FIRST, [FIRST], "resid_post.0"),
        (["embed", LAST], [EMBED, LAST], "embed, resid_post.2"),
        ("attn_out", [Site("attn_out", i) for i in range(3)], "attn_out.0, attn_out.1, attn_out.2"),
    ],
)
def test_what_is_compared_with(one, two, against, columns, name):
    paired = PairedStates(one, sites=("embed", "resid_post"), layers=[0], against=against)
    assert (paired.rows, list(paired.columns), paired.against) == ((EMBED, FIRST), columns, name)
    assert set(paired.sites) == {EMBED, FIRST, *columns}
    assert list(paired.sites) == sorted(paired.sites, key=lambda site: site.depth)
    of_two = PairedStates(one, other=two, sites=("embed", "resid_post"), layers=[0], against=against)
    assert (of_two.rows, list(of_two.columns), of_two.against) == ((EMBED, FIRST), columns, name)
    assert of_two.sites == (EMBED, FIRST)


def test_sites_that_are_refused(one):
    with pytest.raises(InputError, match=r"sites: z\.0 has a head axis"):
        PairedStates(one, sites="z")
    with pytest.raises(InputError, match=r"against must be 'output', 'all', or sites .* got 'pattern'.*has a head axis"):
        PairedStates(one, against="pattern")
    with pytest.raises(InputError, match=r"against must be .* got 'resid_post\.7' \(layer 7 does not exist"):
        PairedStates(one, against="resid_post.7")
    with pytest.raises(InputTypeError, match=r"against must be .* got 3"):
        PairedStates(one, against=3)
    with pytest.raises(InputError, match="massive must be one of 'keep', 'drop', 'normalise'; got 'clip'"):
        PairedStates(one, massive="clip")


# --- massive states


def test_a_state_is_massive_beyond_100_and_1000_times_its_median():
    x = torch.full((6, 5), 0.1)
    x[0, 2] = 101
    x[1, 2] = -101
    x[2] = 0.05
    x[2, 2] = 99
    x[3] = 0.2
    x[3, 2] = 199
    x[4] = 0.0
    x[4, :2] = 101  # the median is 0
    x[5, :3] = 150  # the median is 150
    assert massive_rows(x).tolist() == [True, True, False, False, True, False]
    assert massive_rows(x.half()).tolist() == [True, True, False, False, True, False]
    assert massive_rows(x[:0]).tolist() == []


@pytest.mark.parametrize("massive", ["keep", "drop", "normalise"])
def test_what_becomes_of_massive_states(one, massive):
    batch = batch_of(torch.arange(8).view(2, 4), [[False, True, True, True], [True, True, True, True]])
    plain = states(batch)
    plain[FIRST][0, 2, 3] = 5000  # row 1
    plain[LAST][1, 3, 0] = -9000  # row 6; of a column
    plain[EMBED][0, 0, 0] = 1e6  # is not counted
    paired = PairedStates(one, layers=[0], massive=massive)
    rows, columns, kept = paired.read(batch, plain)
    assert columns is rows
    assert paired.massive_here == 2
    assert kept.tolist() == [massive != "drop" or row not in (1, 6) for row in range(7)]
    for site, x in rows.items():
        expected = batch.rows(plain[site])[kept]
        if massive == "normalise":
            torch.testing.assert_close(x.norm(dim=1), torch.ones(7))
            expected = expected / expected.norm(dim=1, keepdim=True)
        torch.testing.assert_close(x, expected)
    paired.read(batch, states(batch))
    assert paired.massive_here == 0


def test_a_state_of_zero_has_no_direction(one):
    batch = batch_of([[1, 2, 3]])
    plain = states(batch)
    plain[FIRST][0, 1] = 0
    with pytest.raises(InputError, match=r"massive: the state at resid_post\.0, document 0, position 1, is zero"):
        PairedStates(one, layers=[0], massive="normalise").read(batch, plain)
    PairedStates(one, layers=[0], massive="drop").read(batch, plain)


# --- two models


def test_the_other_model_reads_the_same_tokens(one, two):
    batch = batch_of(torch.randint(1, VOCAB, (3, 7), generator=torch.Generator().manual_seed(0)))
    paired = PairedStates(one, other=two.model, layers=[0], against=["embed", LAST])
    own, theirs, kept = paired.read(batch, one.activations(batch.tokens, batch.attention_mask, paired.sites))
    assert kept.all()
    _, cache = two.model.run_with_cache(batch.tokens)
    assert set(own) == {EMBED, FIRST}
    assert set(theirs) == {EMBED, LAST}
    torch.testing.assert_close(theirs[LAST], cache["blocks.2.hook_resid_post"].flatten(0, 1))
    _, cache = one.model.run_with_cache(batch.tokens)
    torch.testing.assert_close(own[FIRST], cache["blocks.0.hook_resid_post"].flatten(0, 1))


def test_a_massive_state_of_either_model_leaves_out_the_token_in_both(one, two, monkeypatch):
    batch = batch_of([[1, 2, 3, 4]])
    theirs = states(batch, seed=1)
    theirs[LAST][0, 2, 0] = 9000
    monkeypatch.setattr(two, "activations", lambda tokens, mask, sites: {site: theirs[site] for site in sites})
    own, others, kept = PairedStates(one, other=two, layers=[0], massive="drop").read(batch, states(batch))
    assert kept.tolist() == [True, True, False, True]
    torch.testing.assert_close(own[FIRST], states(batch)[FIRST][0, kept])
    torch.testing.assert_close(others[LAST], theirs[LAST][0, kept])


def test_what_is_not_finite_in_the_other_model_is_refused(one, two, monkeypatch):
    batch = batch_of([[1, 2, 3, 4]], [[False, True, True, True]])
    theirs = states(batch)
    theirs[LAST][0, 0, 0] = torch.inf  # is not counted
    monkeypatch.setattr(two, "activations", lambda tokens, mask, sites: {site: theirs[site] for site in sites})
    paired = PairedStates(one, other=two, layers=[0])
    paired.read(batch, states(batch))
    theirs[LAST][0, 2:, 0] = torch.nan
    message = r"blocks\.2\.hook_resid_post of the other model has a NaN .* document 0, position 2 \(and 1 more"
    with pytest.raises(NonFiniteError, match=message):
        paired.read(batch, states(batch))


def test_the_window_must_fit_the_other_model(one, two, monkeypatch):
    monkeypatch.setattr(two.model.cfg, "n_ctx", 5)
    paired = PairedStates(one, other=two, layers=[0])
    batch = batch_of(torch.ones(1, 6, dtype=torch.long))
    with pytest.raises(InputError, match="windows of 6 tokens do not fit the other model, whose context is 5; give window=5"):
        paired.read(batch, states(batch))


def texts_of(adapter, monkeypatch, **changed):
    """Another adapter of the same model, to which some tokens are other texts."""
    other = tle.Adapter(adapter.model)
    plain = other.strings
    monkeypatch.setattr(other, "strings", lambda ids: {i: changed.get(f"t{i}", text) for i, text in plain(ids).items()})
    return other


def test_models_must_share_their_tokens(one, two, monkeypatch):
    check_shared_tokens(one, two)
    with pytest.raises(InputError, match=r"other: token 0 is .* to one model and 'x' to the other; .*rows='documents'"):
        PairedStates(one, other=texts_of(two, monkeypatch, t0="x"))
    strange = next(i for i in range(VOCAB) if i not in torch.linspace(0, VOCAB - 1, 64).long().tolist())
    late = PairedStates(one, other=texts_of(two, monkeypatch, **{f"t{strange}": "x"}), layers=[0])
    plain = batch_of([[strange + 1, strange + 2]])
    late.read(plain, states(plain))
    batch = batch_of([[strange + 1, strange]])
    with pytest.raises(InputError, match=f"token {strange} is"):  # though it was in no sample
        late.read(batch, states(batch))
    with pytest.raises(InputError, match=r"other: token .*rows='documents'"):
        PairedStates(one, other=tle.demo_model())


def test_models_without_tokenizers_must_have_vocabularies_of_one_size(one, two, monkeypatch):
    monkeypatch.setattr(two.model, "tokenizer", None)
    check_shared_tokens(one, two)
    with pytest.raises(InputError, match=f"the models predict {VOCAB} and 4096 tokens, .*rows='documents'"):
        check_shared_tokens(two, tle.Adapter(tle.demo_model()))
