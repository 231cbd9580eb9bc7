r"""Matrix-based information between the states of layers: DiME and mutual information over a sample of tokens.

For every two sites, the Gram matrices of the same tokens' states are compared (``functional/states/matrix_information.py``):
their matrix-based mutual information, which is far above 0 for independent states, and DiME, which is not (Skean, Dhakal,
Jacobs and Sanchez Giraldo 2023, arXiv 2301.08164).

Matrices are of tokens against tokens, so a corpus enters by a random sample of its tokens (``analyses/states/sampling.py``),
the same for every site. Values depend on the sample's size: compare those of equal sizes only. DiME, mutual information and
entropies have standard errors over the documents of the sample, for orders from 1 on (``functional/states/matrix_scores.py``).

The time goes into eigenvalues: those of ``permutations`` + 1 matrices for every two sites, and of one for each site; at order 2
there are none to find. With 1000 tokens and 20 permutations two sites take some 2 to 3 s on one core, a tenth of it for errors;
pairs are shared out over the processor's cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_entropy.analyses.sharing import dealt
from tl_entropy.analyses.states.paired_states import Against, Massive, PairedMeasure, nothing
from tl_entropy.analyses.states.sampling import TokenSample
from tl_entropy.analyses.workers import one_thread_each
from tl_entropy.capture.progress import Bar
from tl_entropy.errors import InputError, check_choice, check_int, check_order
from tl_entropy.functional.states.matrices import Kernel, matrix_entropy, named_gram_matrix
from tl_entropy.functional.states.matrix_information import joint_entropies, random_permutations
from tl_entropy.functional.states.matrix_scores import OF_ENTROPY, OF_JOINT_ENTROPY, RowScores
from tl_entropy.functional.states.rows import checked_rows
from tl_entropy.functional.statistics import column_covariances, fold_scores
from tl_entropy.results.provenance import Provenance
from tl_entropy.results.states.similarity import LayerSimilarity
from tl_entropy.sites import Layers, Site

QUANTITIES = ("dime", "mutual_information", "entropy", "joint_entropy", "permuted_joint_entropy", "deviation")
"""What a ``LayerSimilarity`` of this method holds; the first is its headline."""


_Grams = dict[str, Tensor | None]


def matrix_similarities(
    x: Sequence[Tensor],
    y: Sequence[Tensor],
    *,
    order: float = 1.01,
    permutations: int = 20,
    seed: int = 0,
    kernel: Kernel = "gaussian",
    documents: Tensor | None = None,
    progress: bool = False,
) -> dict[str, Tensor]:
    r"""Matrix-based information between each set of states of ``x`` and each of ``y``.

    Every set's Gram matrix is made once, with its own median distance as bandwidth, and the permutations are the same for all
    pairs. Where ``y`` is ``x``, each pair is measured once, for both of its places in the tables.

    Args:
        x: sets of states [row, d], of the same items row by row; each may have its own d.
        y: sets of states of the same items.
        order: of the entropies, from 0 to infinity.
        permutations: how many random pairings of rows are averaged, 2 or more.
        seed: of the permutations.
        kernel: "gaussian" or "linear"; see ``gram_matrix``.
        documents: [row] which rows belong together; None takes every row for independent of the others.
        progress: show a progress bar over pairs.

    Returns:
        Tables [len(x), len(y)] in float64, nats: "dime", "mutual_information", "joint_entropy", "permuted_joint_entropy" and
        its "deviation" over permutations; the entropies of the sets, "row_entropy" [len(x)] and "column_entropy" [len(y)].
        Of "dime", "mutual_information", "entropy" and "joint_entropy" also "..._covariance" [len(x), len(x), len(y)], of the
        values of two of ``x`` with one of ``y``, over documents (of DiME over permutations, too), and "..._scores" [20,
        len(x), len(y)], what folds of documents add; NaN below order 1.
        NaN where a set has no Gram matrix: more than half of its rows are equal, or, with a linear kernel, all are 0.

    Raises:
        InputError: no sets, unequal numbers of rows, or an argument out of range.
        InputTypeError: arguments of another kind.
        NonFiniteError: a row with a NaN or an infinity.

    Source: Sánchez Giraldo, Rao and Príncipe (2015), arXiv 1211.2459; Skean et al. (2023), arXiv 2301.08164.

    >>> x = torch.eye(4).repeat(50, 1)  # four groups of equal rows
    >>> tables = matrix_similarities([x, 3 * x + 1], [x])  # neither scale nor shift matters
    >>> tables["dime"].T, tables["row_entropy"]
    (tensor([[0.6338, 0.6338]], dtype=torch.float64), tensor([0.9268, 0.9268], dtype=torch.float64))
    """
    check_choice("kernel", kernel, ("gaussian", "linear"))
    rows = _gram_matrices({f"x[{i}]": rows for i, rows in enumerate(x)}, kernel)
    columns = rows if y is x else _gram_matrices({f"y[{i}]": rows for i, rows in enumerate(y)}, kernel)
    if not (rows and columns):
        raise InputError(f"x and y must each hold one set of states or more; got {len(rows)} and {len(columns)}")
    sizes = {f"{name}[{i}]": len(rows) for name, sets in (("x", x), ("y", y)) for i, rows in enumerate(sets)}
    if len(set(sizes.values())) > 1:
        raise InputError(f"x and y must hold states of the same items, equally many in each set; got {sizes}")
    return _tables(
        rows, columns, documents=torch.arange(len(x[0])) if documents is None else documents, order=order,
        permutations=permutations, seed=seed, adaptive=kernel == "gaussian", progress=progress,
    )  # fmt: skip


def stacked(tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``values`` [quantity, row, column] of such tables, their ``covariance`` and ``scores``, NaN where these are not known."""
    shape = tables["dime"].shape
    values = [tables["row_entropy"][:, None].expand(shape) if q == "entropy" else tables[q] for q in QUANTITIES]

    def known(what: str) -> Tensor:
        none = torch.full_like(tables[f"dime_{what}"], torch.nan)
        return torch.stack([tables.get(f"{quantity}_{what}", none) for quantity in QUANTITIES])

    return {"values": torch.stack(values), "covariance": known("covariance"), "scores": known("scores")}


class MatrixAccumulator(PairedMeasure):
    """Gathers a sample of tokens with their states at every site, and compares sites by matrix-based information.

    Args:
        model: a HookedTransformer or TransformerBridge.
        other: another model of the same tokens, whose sites are the columns; None is the same model.
        sites: short names of sites, or sites.
        layers: blocks: numbers, from 0 or negative from the last, or a slice; None is all.
        against: what the columns are: "output", "all", or sites; see ``PairedStates``.
        massive: what becomes of massive states: "keep", "drop" or "normalise"; see ``PairedStates``.
        order: of the entropies, from 0 to infinity.
        n_samples: tokens in the sample; all there are, if fewer. Time grows as its cube, the highest value as its log.
        permutations: how many random pairings of rows are averaged for the baseline, 2 or more.
        seed: of the sample and of the permutations.
        first_document: number, in the whole corpus, of the first document that this accumulator will see. Parts that are
            merged must number their documents differently.
        progress: show a bar over the pairs of sites that ``compute`` compares.

    Attributes:
        sites: what a pass must capture.
        adapter: of the model.

    Raises:
        InputError, InputTypeError: an argument that doesn't fit.

    >>> import tl_entropy as tle
    >>> model = tle.demo_model()
    >>> matrices = tle.MatrixAccumulator(model, permutations=2)
    >>> report = tle.stream(model, ["import os, sys"] * 4, [matrices], progress=False)
    >>> matrices.compute().method
    'matrix_renyi'
    """

    alike = ("order", "permutations")
    gathered = ("paired", "sample", "_massive_tokens")

    def __init__(
        self,
        model: Any,
        *,
        other: Any = None,
        sites: str | Sequence[str | Site] = ("embed", "resid_post"),
        layers: Layers | None = None,
        against: Against = "output",
        massive: Massive = "keep",
        order: float = 1.01,
        n_samples: int = 1000,
        permutations: int = 20,
        seed: int = 0,
        first_document: int = 0,
        progress: bool = False,
    ) -> None:
        super().__init__(model, other=other, sites=sites, layers=layers, against=against, massive=massive)
        self.order = check_order("order", order)
        self.permutations = check_int("permutations", permutations, 2)
        self.sample = TokenSample(check_int("n_samples", n_samples, 2), seed, first_document=first_document)
        self.progress = progress

    def _add(self, documents: Tensor, positions: Tensor, states: Mapping[Any, Tensor]) -> None:
        self.sample.update(documents, positions, states)

    def _settings(self) -> dict[str, Any]:
        return {
            "order": self.order, "kernel": "gaussian", "n_samples": self.sample.size, "permutations": self.permutations,
            "seed": self.sample.seed, "method": "matrix_renyi", **super()._settings(),
        }  # fmt: skip

    def _result(self, provenance: Provenance) -> LayerSimilarity:
        """NaN where fewer than two tokens were seen, and of sites where more than half of the sampled states are equal."""
        count, shape = len(self.sample.documents), (len(self.paired.rows), len(self.paired.columns))
        found = nothing(len(QUANTITIES), *shape)
        if count > 1:
            tables = _tables(
                *self._grams(), documents=self.sample.documents, order=self.order, permutations=self.permutations,
                seed=self.sample.seed, adaptive=True, progress=self.progress,
            )  # fmt: skip
            found = stacked(tables)
        return self._similarity(
            provenance, method="matrix_renyi", quantities=QUANTITIES, units=("nats",) * len(QUANTITIES), count=count,
            documents=len(self.sample.documents.unique()), **found,
        )  # fmt: skip

    def _grams(self) -> tuple[_Grams, _Grams]:
        """Gram matrices of the rows' sites and of the columns', by name."""
        states, paired = self.sample.whole(), self.paired
        if paired.other:
            rows = _gram_matrices({str(site): states[0, site] for site in paired.rows})
            return rows, _gram_matrices({f"{site} of the other model": states[1, site] for site in paired.columns})
        made = _gram_matrices({str(site): states[0, site] for site in self.sites})
        rows = {name: made[name] for name in map(str, paired.rows)}
        return rows, rows if paired.columns == paired.rows else {name: made[name] for name in map(str, paired.columns)}


def _gram_matrices(states: Mapping[str, Tensor], kernel: Kernel = "gaussian") -> _Grams:
    return {name: _gram_matrix(name, rows, kernel) for name, rows in states.items()}


def _gram_matrix(name: str, rows: Tensor, kernel: Kernel) -> Tensor | None:
    """The Gram matrix of some rows; None where there is none, since most rows are equal."""
    checked_rows(rows, name=name)  # so that nothing else is left to be refused
    try:
        return named_gram_matrix(name, rows, kernel=kernel)
    except InputError:
        return None


def _tables(
    rows: _Grams,
    columns: _Grams,
    *,
    documents: Tensor,
    order: float,
    permutations: int,
    seed: int,
    adaptive: bool,
    progress: bool,
) -> dict[str, Tensor]:
    """What ``matrix_similarities`` returns, from Gram matrices [n, n] by name; NaN where there is none."""
    n, symmetric = len(documents), rows is columns
    orders = random_permutations(n, check_int("permutations", permutations, 2), seed=seed)
    x = [None if a is None else RowScores(a, order, adaptive=adaptive) for a in rows.values()]
    y = x if symmetric else [None if a is None else RowScores(a, order, adaptive=adaptive) for a in columns.values()]
    found = torch.full((len(x), len(y), 1 + permutations), torch.nan, dtype=torch.float64)
    scores = {
        name: torch.full((n, len(x), len(y)), torch.nan, dtype=torch.float64)
        for name in ("mutual_information", "entropy", "joint_entropy")
    }
    pairs = [(i, j) for i in range(len(x)) for j in range(i if symmetric else 0, len(y))]

    def entropy(one: RowScores | None) -> Tensor:
        return torch.tensor(torch.nan, dtype=torch.float64) if one is None else matrix_entropy(one.a, order).cpu()

    def of_pair(pair: tuple[int, int]) -> tuple[Tensor, ...]:
        """Joint entropies, and, from order 1 on, what each row adds to the mutual information and to these."""
        a, b = x[pair[0]], y[pair[1]]
        if a is None or b is None:
            return ()
        joint = joint_entropies(a.a, b.a.to(a.a.device), order=order, permutations=orders).cpu()
        if order < 1:
            return (joint,)
        together = a.joint(b)
        return joint, (a.own + b.own.to(a.a.device) - together).cpu(), together.cpu()

    def of_pairs(mine: Sequence[tuple[int, int]]) -> list[tuple[Tensor, ...]]:
        values = []
        with one_thread_each() as pool, Bar(total=len(mine), desc="pairs of sites", unit="pair", show=progress) as bar:
            for one in pool.map(of_pair, mine):
                values.append(one)
                bar.update()
        return values

    with one_thread_each() as pool:
        row_entropy = torch.stack(list(pool.map(entropy, x)))
        column_entropy = row_entropy if symmetric else torch.stack(list(pool.map(entropy, y)))
    for pair, values in zip(pairs, dealt("pairs of sites", pairs, of_pairs), strict=True):
        for one, other in {pair, pair[::-1]} if symmetric else {pair}:
            for joint in values[:1]:
                found[one, other] = joint
            for name, of_rows in zip(("mutual_information", "joint_entropy"), values[1:], strict=False):
                scores[name][:, one, other] = of_rows
    for i, of_row in enumerate(x):
        if of_row is not None and order >= 1:
            scores["entropy"][:, i] = of_row.own.cpu()[:, None]
    joint, permuted = found[..., 0], found[..., 1:]
    mean = permuted.mean(-1)
    around = permuted - mean[..., None]
    of_permutations = torch.einsum("icp,jcp->ijc", around, around) / (permutations * (permutations - 1))
    tables = {
        "dime": mean - joint,
        "mutual_information": row_entropy[:, None] + column_entropy - joint,
        "joint_entropy": joint,
        "permuted_joint_entropy": mean,
        "deviation": permuted.std(-1),
        "row_entropy": row_entropy,
        "column_entropy": column_entropy,
    }
    taken = {"mutual_information": 1.0, "entropy": OF_ENTROPY, "joint_entropy": OF_JOINT_ENTROPY}
    for name, of_rows in scores.items():
        tables[f"{name}_covariance"] = taken[name] * column_covariances(of_rows, documents, n)
        tables[f"{name}_scores"] = fold_scores(of_rows, documents)
    tables["dime_covariance"] = tables["mutual_information_covariance"] + of_permutations
    tables["dime_scores"] = tables["mutual_information_scores"]
    return tables
