"""Results made by hand, without a model, for tests of what is done with them."""

from __future__ import annotations

import dataclasses

import torch

from tl_entropy.analyses.profiles.distances import pairwise_distances
from tl_entropy.analyses.profiles.dynamics import layer_dynamics
from tl_entropy.functional.tokens.sizes import token_sizes
from tl_entropy.results import LayerDivergence, LensEntropy, Provenance
from tl_entropy.results.base import fields_at
from tl_entropy.results.models.comparison import ModelComparison
from tl_entropy.results.states.similarity import LayerSimilarity
from tl_entropy.results.tokens.surprisal import TokenSurprisal
from tl_entropy.sites import Site

LENGTHS = (3, 4, 2, 5)  # tokens of the documents


def stream(n_layers):
    return (Site("embed", -1), *(Site("resid_post", i) for i in range(n_layers)))


def origin(model, **settings):
    return Provenance(model, "abc", "raw", "float32", "cpu", settings=settings, versions={}, created="then")


def rows(lengths=LENGTHS):
    """Which document, position and token each row is of."""
    document = torch.tensor([d for d, length in enumerate(lengths) for _ in range(length)])
    position = torch.tensor([p for length in lengths for p in range(length)])
    return {"document": document, "position": position, "token": torch.zeros(len(document), dtype=torch.long)}


def without_rows(result):
    """A result of the same kind in which nothing was counted: what a pass that was ended at once may leave."""
    return dataclasses.replace(result, **fields_at(result, row=[]))


def lens(model="tiny", n_layers=3, seed=0, **settings):
    rng = torch.Generator().manual_seed(seed)
    places = rows()
    entropy = 3 * torch.rand(len(places["token"]), n_layers + 1, 1, generator=rng) + torch.linspace(4, 0, n_layers + 1)[:, None]
    return LensEntropy(
        entropy=entropy, sites=stream(n_layers), orders=(1.0,), strings={0: "a"}, provenance=origin(model, **settings), **places
    )


def divergence(against, model="tiny", n_layers=3, seed=0):
    rng = torch.Generator().manual_seed(seed + 7)
    sites, places = stream(n_layers), rows()
    measured = sites[1:] if against == "previous" else sites
    values = torch.rand(len(places["token"]), len(measured), 2, generator=rng) * 0.6
    if against == "output":
        values = values * torch.linspace(1, 0, len(sites))[:, None]
    return LayerDivergence(
        divergence=values, agreement=torch.ones(values.shape[:2], dtype=torch.bool), output_token=places["token"],
        sites=measured, metrics=("jsd", "fisher_rao"), against=against, strings={0: "a"},
        provenance=origin(model, sites=tuple(map(str, sites))), **places,
    )  # fmt: skip


def similarities(n_rows=3, n_columns=3, *, against="all", model="tiny", other=None, values=None, **changes):
    """CKA of ``n_rows`` layers and the embedding to ``n_columns`` layers and theirs, or to the last one alone."""
    columns = stream(n_columns) if against == "all" else (Site("resid_post", n_columns - 1),)
    if values is None:
        values = torch.rand(n_rows + 1, len(columns), generator=torch.Generator().manual_seed(n_rows), dtype=torch.float64)
    parts = {
        "method": "cka", "rows": stream(n_rows), "columns": columns, "quantities": ("cka",), "units": ("",),
        "values": torch.as_tensor(values, dtype=torch.float64)[None], "against": against, "over": "tokens", "count": 14,
        "documents": 4, "massive": "keep", "massive_tokens": 0, "provenance": origin(model, debiased=True),
        "other": None if other is None else origin(other),
    }  # fmt: skip
    return LayerSimilarity(**{**parts, **changes})


def compared(depths=(("tiny", 3), ("EleutherAI/pythia 70m", 5)), *, similarity=True, notes=("a note",)):
    """A comparison of models of these names and depths."""
    lenses = {name: lens(name, n, seed) for seed, (name, n) in enumerate(depths)}
    dynamics = {
        name: layer_dynamics(lenses[name], divergence("output", name, n, seed), divergence("previous", name, n, seed))
        for seed, (name, n) in enumerate(depths)
    }
    pairs = [(a, b) for i, a in enumerate(depths) for b in depths[i + 1 :]]
    return ModelComparison(
        lenses=lenses,
        dynamics=dynamics,
        distances=pairwise_distances(lenses, progress=False) if len(lenses) > 1 else None,
        similarity={name: similarities(n, n, model=name) for name, n in depths} if similarity else {},
        across={(a, b): similarities(n, m, model=a, other=b) for (a, n), (b, m) in pairs} if similarity else {},
        notes=notes,
    )


def surprisal(*documents, model="tiny", seed=0, top_k=3, **changes):
    """What these documents cost; each is a list of its tokens' texts, where an empty one shares the character before it."""
    rng = torch.Generator().manual_seed(seed)
    ids = {piece: i for i, piece in enumerate(dict.fromkeys(piece for pieces in documents for piece in pieces))}
    strings = {i: piece or "\ufffd" for piece, i in ids.items()}
    spans, sizes, texts = [], [], {}
    for number, pieces in enumerate(documents):
        texts[number], here = "".join(pieces), []
        for piece in pieces:
            end = here[-1][1] if here else 0
            here.append((end, end + len(piece)) if piece else (end - 1, end))
        spans += here
        sizes.append(token_sizes(texts[number], torch.tensor(here)))
    n_characters, n_bytes = (torch.cat(parts) for parts in zip(*sizes, strict=True))
    n = len(spans)
    cost, entropy = (-torch.rand(n, generator=rng, dtype=torch.float64).log() * x for x in (2, 1))
    tops = torch.rand(n, len(strings), generator=rng, dtype=torch.float64).log_softmax(-1).topk(min(top_k, len(strings)))
    parts = {
        **rows([len(pieces) for pieces in documents]),
        "token": torch.tensor([ids[piece] for pieces in documents for piece in pieces]),
        "surprisal": cost, "entropy": entropy, "varentropy": entropy**2, "rank": (3 * cost).long(), "span": torch.tensor(spans),
        "n_bytes": n_bytes, "n_characters": n_characters, "strings": strings, "texts": texts,
        "lengths": {number: len(pieces) for number, pieces in enumerate(documents)}, "top_tokens": tops.indices,
        "top_log_probs": tops.values, "provenance": origin(model),
    }  # fmt: skip
    return TokenSurprisal(**{**parts, **changes})


def same(a, b):
    """Two results are equal field by field, to the last bit."""
    for item in dataclasses.fields(a):
        mine, theirs = getattr(a, item.name), getattr(b, item.name)
        if isinstance(mine, torch.Tensor):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)
            assert mine.dtype == theirs.dtype
        else:
            assert mine == theirs, item.name
