r"""Matrix-based information between the states of layers: DiME and mutual information over a sample of tokens.

For every two sites, the Gram matrices of the same tokens' states are compared (``functional/states/matrix_information.py``):
their matrix-based mutual information, which is far above 0 for independent states, and DiME, which is not (Skean, Dhakal,
Jacobs and Sanchez Giraldo 2023, arXiv 2301.08164).

Matrices are of tokens against tokens, so a corpus enters by a random sample of its tokens (``analyses/states/sampling.py``),
the same for every site. Values depend on the sample's size: compare those of equal sizes only.

The time goes into eigenvalues: those of ``permutations`` + 1 matrices for every two sites, and of one for each site; at order 2
there are none to find. With 1000 tokens and 20 permutations two sites take some 2 to 3 s on one core; pairs are shared out over
the processor's cores.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from tl_entropy.analyses.states.paired_states import Against, Massive, PairedStates
from tl_entropy.analyses.states.sampling import TokenSample
from tl_entropy.capture.adapter import Adapter
from tl_entropy.capture.batches import Batch
from tl_entropy.errors import InputError, check_int
from tl_entropy.functional.states.matrices import Kernel, check_order, matrix_entropy, named_gram_matrix
from tl_entropy.functional.states.matrix_information import joint_entropies, random_permutations
from tl_entropy.results.similarity import LayerSimilarity
from tl_entropy.sites import Site

QUANTITIES = ("dime", "mutual_information", "entropy", "joint_entropy", "permuted_joint_entropy", "deviation")
"""What a ``LayerSimilarity`` of this method holds; the first is its headline."""


def matrix_similarities(
    x: Sequence[Tensor],
    y: Sequence[Tensor],
    *,
    order: float = 1.01,
    permutations: int = 20,
    seed: int = 0,
    kernel: Kernel = "gaussian",
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
        progress: show a progress bar over pairs.

    Returns:
        Tables [len(x), len(y)] in float64, nats: "dime", "mutual_information", "joint_entropy", "permuted_joint_entropy" and
        its "deviation" over permutations; and the entropies of the sets, "row_entropy" [len(x)] and "column_entropy" [len(y)].

    Raises:
        InputError: no sets, unequal numbers of rows, more than half of a set's rows equal, or an argument out of range.
        InputTypeError: arguments of another kind.
        NonFiniteError: a row with a NaN or an infinity.

    Source: Sánchez Giraldo, Rao and Príncipe (2015), arXiv 1211.2459; Skean et al. (2023), arXiv 2301.08164.

    >>> x = torch.eye(4).repeat(50, 1)  # four groups of equal rows
    >>> tables = matrix_similarities([x, 3 * x + 1], [x])  # neither scale nor shift matters
    >>> tables["dime"].T, tables["row_entropy"]
    (tensor([[0.6338, 0.6338]], dtype=torch.float64), tensor([0.9268, 0.9268], dtype=torch.float64))
    """
    rows = _gram_matrices({f"x[{i}]": rows for i, rows in enumerate(x)}, kernel)
    columns = rows if y is x else _gram_matrices({f"y[{i}]": rows for i, rows in enumerate(y)}, kernel)
    if not (rows and columns):
        raise InputError(f"x and y must each hold one set of states or more; got {len(rows)} and {len(columns)}")
    sizes = {name: len(gram) for name, gram in (rows | columns).items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"x and y must hold states of the same items, equally many in each set; got {sizes}")
    return _tables(rows, columns, order=order, permutations=permutations, seed=seed, progress=progress)


class MatrixAccumulator:
    """Gathers a sample of tokens with their states at every site, and compares sites by matrix-based information.

    Args:
        model: a HookedTransformer or TransformerBridge.
        other: another model of the same tokens, whose sites are the columns; None is the same model.
        sites: short names of sites, or sites.
        layers: blocks; None is all.
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
    """

    def __init__(
        self,
        model: Any,
        *,
        other: Any = None,
        sites: str | Sequence[str | Site] = ("embed", "resid_post"),
        layers: Sequence[int] | None = None,
        against: Against = "output",
        massive: Massive = "keep",
        order: float = 1.01,
        n_samples: int = 1000,
        permutations: int = 20,
        seed: int = 0,
        first_document: int = 0,
        progress: bool = False,
    ) -> None:
        self.adapter = model if isinstance(model, Adapter) else Adapter(model)
        self.paired = PairedStates(self.adapter, other=other, sites=sites, layers=layers, against=against, massive=massive)
        self.sites = self.paired.sites
        self.order = check_order(order)
        self.permutations = check_int("permutations", permutations, 2)
        self.sample = TokenSample(check_int("n_samples", n_samples, 2), seed, first_document=first_document)
        self.progress = progress
        self._massive_tokens = 0

    def update(self, batch: Batch, activations: Mapping[Site, Tensor]) -> None:
        """Take in one batch; all or nothing."""
        if not batch.n_rows:
            return
        own, theirs, kept = self.paired.read(batch, activations)
        states: dict[Any, Tensor] = {(0, site): own[site] for site in self.sites}
        if self.paired.other:
            states |= {(1, site): theirs[site] for site in self.paired.columns}
        self.sample.update(batch.row_document[kept], batch.row_position[kept], states)
        self._massive_tokens += self.paired.massive_here

    def merge(self, other: MatrixAccumulator) -> None:
        """Take in what another accumulator of the same settings has seen of other documents of the corpus.

        Raises:
            InputError: the settings differ, or the documents are numbered alike; see ``first_document``.
        """
        mine, theirs = self._settings(), other._settings()
        for name in mine:
            if mine[name] != theirs[name]:
                raise InputError(f"cannot merge: {name} is {mine[name]!r} here and {theirs[name]!r} there")
        self.sample.merge(other.sample)
        self._massive_tokens += other._massive_tokens

    def compute(self, **origin: Any) -> LayerSimilarity:
        """The result of what was seen so far, NaN where that is fewer than two tokens; ``origin`` goes into its provenance.

        Raises:
            InputError: a site where more than half of the sampled states are equal.
        """
        paired, count = self.paired, len(self.sample.documents)
        shape = len(paired.rows), len(paired.columns)
        values = torch.full((len(QUANTITIES), *shape), torch.nan, dtype=torch.float64)
        if count > 1:
            rows, columns = self._grams()
            tables = _tables(
                rows,
                columns,
                order=self.order,
                permutations=self.permutations,
                seed=self.sample.seed,
                progress=self.progress,
            )
            tables["entropy"] = tables["row_entropy"][:, None].expand(shape)
            values = torch.stack([tables[name] for name in QUANTITIES])
        settings = {
            "order": self.order, "kernel": "gaussian", "n_samples": self.sample.size, "permutations": self.permutations,
            "seed": self.sample.seed, **origin.pop("settings", {}),
        }  # fmt: skip
        return LayerSimilarity(
            method="matrix_renyi", rows=paired.rows, columns=paired.columns, quantities=QUANTITIES,
            units=("nats",) * len(QUANTITIES), values=values, against=paired.against, over="tokens", count=count,
            documents=len(self.sample.documents.unique()), massive=paired.massive, massive_tokens=self._massive_tokens,
            provenance=self.adapter.provenance(settings=settings, **origin),
            other=paired.other.provenance() if paired.other else None,
        )  # fmt: skip

    def _grams(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Gram matrices of the rows' sites and of the columns', by name."""
        states, paired = self.sample.whole(), self.paired
        if paired.other:
            rows = _gram_matrices({str(site): states[0, site] for site in paired.rows})
            return rows, _gram_matrices({f"{site} of the other model": states[1, site] for site in paired.columns})
        made = _gram_matrices({str(site): states[0, site] for site in self.sites})
        rows = {name: made[name] for name in map(str, paired.rows)}
        return rows, rows if paired.columns == paired.rows else {name: made[name] for name in map(str, paired.columns)}

    def _settings(self) -> dict[str, Any]:
        """What must be the same in all parts of a corpus."""
        paired = self.paired
        return {
            "rows": paired.rows, "columns": paired.columns, "massive": paired.massive, "order": self.order,
            "permutations": self.permutations,
        }  # fmt: skip


def _gram_matrices(states: Mapping[str, Tensor], kernel: Kernel = "gaussian") -> dict[str, Tensor]:
    return {name: named_gram_matrix(name, rows, kernel=kernel) for name, rows in states.items()}


def _tables(
    rows: Mapping[str, Tensor], columns: Mapping[str, Tensor], *, order: float, permutations: int, seed: int, progress: bool
) -> dict[str, Tensor]:
    """What ``matrix_similarities`` returns, from Gram matrices by name."""
    x, y = list(rows.values()), list(columns.values())
    symmetric = rows is columns
    orders = random_permutations(len(x[0]), check_int("permutations", permutations, 2), seed=seed)
    found = torch.zeros(len(x), len(y), 1 + permutations, dtype=torch.float64)
    pairs = [(i, j) for i in range(len(x)) for j in range(i if symmetric else 0, len(y))]

    def entropy(a: Tensor) -> Tensor:
        return matrix_entropy(a, order).cpu()

    def joint_of(pair: tuple[int, int]) -> Tensor:
        a, b = x[pair[0]], y[pair[1]]
        return joint_entropies(a, b.to(a.device), order=order, permutations=orders).cpu()

    with _one_thread_each() as pool:
        row_entropy = torch.stack(list(pool.map(entropy, x)))
        column_entropy = row_entropy if symmetric else torch.stack(list(pool.map(entropy, y)))
        bar = tqdm(total=len(pairs), desc="pairs of sites", unit="pair", disable=not progress, dynamic_ncols=True)
        with bar:
            for (i, j), values in zip(pairs, pool.map(joint_of, pairs), strict=True):
                found[i, j] = values
                if symmetric:
                    found[j, i] = values
                bar.update()
    joint, permuted = found[..., 0], found[..., 1:]
    mean = permuted.mean(-1)
    return {
        "dime": mean - joint,
        "mutual_information": row_entropy[:, None] + column_entropy - joint,
        "joint_entropy": joint,
        "permuted_joint_entropy": mean,
        "deviation": permuted.std(-1),
        "row_entropy": row_entropy,
        "column_entropy": column_entropy,
    }


@contextmanager
def _one_thread_each() -> Iterator[ThreadPoolExecutor]:
    """As many workers as torch has threads, each of which computes alone.

    Several threads hardly speed up the eigenvalues of one matrix, and wait for each other where the processor is busy.
    """
    threads = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)  # which, in some libraries, is one number for all threads
