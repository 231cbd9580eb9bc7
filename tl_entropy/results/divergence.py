"""How far the prediction at each site is from the model's output, at every position (``LayerDivergence``) or as sums.

Beside the divergences a result holds what each site would have predicted, so that it also says from which layer on the model's
answer stays: a position is *decided* at the first site of the residual stream from which the most probable token is, there and
at every later site, the one that the model puts out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, SupportsInt

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tl_entropy.errors import InputError
from tl_entropy.functional.statistics import clustered_mean
from tl_entropy.results.base import PER_NAT, Provenance, Result, Unit, chosen_from
from tl_entropy.results.positions import Positions, site_columns, token_means
from tl_entropy.results.printing import plus_minus, title
from tl_entropy.sites import Site

STREAM_SITES = frozenset({"embed", "resid_pre", "resid_mid", "resid_post"})
"""Sites that are states of the residual stream, one after the other, and not parts written into it."""

_NOTE = "mean over tokens ± standard error over documents; agreement, decided: shares of tokens"

_IN_UNIT = frozenset({"kl", "reverse_kl", "jsd"})


def unit_of(quantity: str, unit: Unit) -> str:
    """The unit of a quantity of these results: ``unit``, "rad", or nothing for shares, ranks and probabilities.

    >>> unit_of("jsd", "bits"), unit_of("fisher_rao", "bits"), unit_of("agreement", "bits")
    ('bits', 'rad', '')
    """
    if quantity in _IN_UNIT or quantity.startswith("surprisal"):
        return unit
    return "rad" if quantity == "fisher_rao" else ""


def _heading(result: LayerDivergence | DivergenceSummary, tokens: int, documents: int) -> str:
    lens = result.provenance.settings.get("lens", "logit lens")
    through = "" if lens == "logit lens" else f", through {lens}"
    shape = f"{tokens} tokens of {documents} documents x {len(result.sites)} sites"
    return title(result, f"{shape}, against {result.against}{through}")


def _profile_table(profile: pd.DataFrame) -> pd.DataFrame:
    """A mean profile as it is printed: sites down, quantities across."""
    text = plus_minus(profile["mean"], profile["se"])
    place = [str(Site(s, n)) for s, n in zip(profile["site"], profile["layer"], strict=True)]
    wide = profile.assign(text=text, place=place).pivot_table(
        index="place", columns="quantity", values="text", aggfunc="first", sort=False
    )
    wide.index.name = wide.columns.name = None
    return wide.fillna("")  # "decided" of sites that are no states of the residual stream


@dataclass(frozen=True, eq=False, repr=False)
class LayerDivergence(Positions, Result):
    """Divergences between the lens distribution at each site and another, and what each site would have predicted.

    Rows are the positions counted, ordered by document and position. A position is that of the token read; the distributions
    are about the token after it. With r the distribution compared with and p that of the site, the metrics are

    | metric | definition | unit, range |
    |---|---|---|
    | kl | KL(r ‖ p) = Σ r·log(r / p): what is lost by taking the site's prediction for the other | ``unit``, from 0 |
    | reverse_kl | KL(p ‖ r) | ``unit``, from 0 |
    | jsd | Jensen-Shannon divergence | ``unit``, 0 to log 2 |
    | fisher_rao | 2·arccos Σ √(p·r) | rad, 0 to π |
    | total_variation | ½ Σ abs(p - r) | 0 to 1 |

    Attributes:
        divergence: [row, site, metric].
        agreement: [row, site], whether the site's most probable token is the one of the model's own output.
        document: [row], number of the text in the input.
        position: [row], index of the token in its document, without BOS.
        token: [row], id of the token read.
        output_token: [row], the most probable token of the model's own output.
        sites: what the second axis means.
        metrics: what the third axis means.
        against: "output" (the model's own), "previous" (the site before), or a site, such as "resid_post.3".
        strings: text of every token id that occurs.
        provenance: model, settings, corpus, versions.
        names: names of documents that have one (files).
        top_tokens: [row, site, k], ids of the most probable tokens.
        top_log_probs: [row, site, k], their natural log-probabilities, whatever the unit.
        surprisal: [row, site], -log of the probability of the document's next token, in ``unit``; NaN at the end.
        rank: [row, site], rank of that token (0 = most probable); -1 at the end.
        targets: ids of the target tokens asked for.
        target_surprisal: [row, site, target], -log of their probabilities, in ``unit``.
        target_rank: [row, site, target], their ranks.
        generated: [row], whether the token read was generated by the model.
        unit: "nats" or "bits".
    """

    divergence: Float[Tensor, "row site metric"]
    agreement: Bool[Tensor, "row site"]
    document: Int[Tensor, "row"]
    position: Int[Tensor, "row"]
    token: Int[Tensor, "row"]
    output_token: Int[Tensor, "row"]
    sites: tuple[Site, ...]
    metrics: tuple[str, ...]
    against: str
    strings: Mapping[int, str]
    provenance: Provenance
    names: Mapping[int, str] = dataclasses.field(default_factory=dict)
    top_tokens: Int[Tensor, "row site k"] | None = None
    top_log_probs: Float[Tensor, "row site k"] | None = None
    surprisal: Float[Tensor, "row site"] | None = None
    rank: Int[Tensor, "row site"] | None = None
    targets: tuple[int, ...] = ()
    target_surprisal: Float[Tensor, "row site target"] | None = None
    target_rank: Int[Tensor, "row site target"] | None = None
    generated: Bool[Tensor, "row"] | None = None
    unit: Unit = "nats"

    in_units = ("surprisal", "target_surprisal")

    def to(self, unit: Unit) -> Self:
        """The same result in ``"nats"`` or ``"bits"``; radians and total variation stay."""
        changed = super().to(unit)
        factor = PER_NAT[unit] / PER_NAT[self.unit]
        factors = torch.tensor([factor if metric in _IN_UNIT else 1.0 for metric in self.metrics])
        return dataclasses.replace(changed, divergence=self.divergence * factors)

    @property
    def target_names(self) -> tuple[str, ...]:
        """What each target is called: its text in quotes, and its id where several targets have one text (parts of letters)."""
        texts = [self.strings[token] for token in self.targets]
        return tuple(
            f"{text!r} ({token})" if texts.count(text) > 1 else repr(text)
            for text, token in zip(texts, self.targets, strict=True)
        )

    def metric(self, name: str) -> Tensor:
        """One metric [row, site].

        Raises:
            InputError: it was not measured.
        """
        return self.divergence[:, :, self.metrics.index(chosen_from("metric", name, self.metrics)[0])]

    def decided(self) -> Tensor:
        """[row] int64: the column of ``sites`` at which the position is decided; ``len(sites)`` where it never is.

        That is the first site of the residual stream from which the most probable token is, there and at all later sites of
        the stream, that of the model's own output.

        Raises:
            InputError: no site here is a state of the residual stream.
        """
        stream = stream_columns(self.sites)
        first = first_to_stay(self.agreement[:, stream])
        return torch.tensor([*stream, len(self.sites)])[first]

    def quantities(self) -> dict[str, Tensor]:
        """Everything that has a value at every row and site, by name: [row, site] each; NaN where there is none.

        These are the metrics, "agreement" and "decided" (1 from the site on where the position is decided), and, where asked
        for, "surprisal" and "rank" of the document's next token and of each target, such as "rank of ' Paris'".
        """
        found = {name: self.divergence[:, :, i] for i, name in enumerate(self.metrics)}
        found["agreement"] = self.agreement.float()
        if stream := stream_columns(self.sites, required=False):
            found["decided"] = torch.full_like(found["agreement"], math.nan)
            found["decided"][:, stream] = (torch.tensor(stream) >= self.decided()[:, None]).float()
        if self.surprisal is not None and self.rank is not None:
            found["surprisal"] = self.surprisal
            found["rank"] = self.rank.float().masked_fill(self.rank < 0, math.nan)
        if self.target_surprisal is not None and self.target_rank is not None:
            for i, name in enumerate(self.target_names):
                found[f"surprisal of {name}"] = self.target_surprisal[:, :, i]
                found[f"rank of {name}"] = self.target_rank[:, :, i].float()
        return found

    def mean_profile(self, quantities: str | Iterable[str] | None = None) -> pd.DataFrame:
        """Means over tokens at each site, with standard errors over documents.

        Every token counts the same; tokens without a value (the last of a document has no next token) are left out. "decided"
        has no value at sites that are not states of the residual stream.

        Args:
            quantities: names as in ``quantities()``; None is the metrics, "agreement" and "decided".

        Returns:
            One line for each quantity and site: site, layer, quantity, unit, mean, se, tokens, documents.

        Raises:
            InputError: a quantity that is not there, or no rows.
        """
        there = self.quantities()
        wanted = [*self.metrics, *(name for name in ("agreement", "decided") if name in there)]
        if quantities is not None:
            wanted = chosen_from("quantities", quantities, there)
        stream = stream_columns(self.sites, required=False)
        frames = []
        for name in wanted:
            columns = stream if name == "decided" else range(len(self.sites))
            known = ~there[name][:, columns[0]].isnan()
            mean, se = token_means(there[name][known], self.document[known])
            counts = (int(known.sum()), len(self.document[known].unique()))
            frames += _lines(self.sites, columns, name, unit_of(name, self.unit), mean, se, counts)
        return pd.DataFrame(frames)

    def select(
        self,
        *,
        sites: str | Iterable[str] | None = None,
        layers: SupportsInt | Iterable[int] | None = None,
        metrics: str | Iterable[str] | None = None,
        documents: SupportsInt | Iterable[int] | None = None,
        positions: SupportsInt | slice | Iterable[int] | None = None,
    ) -> Self:
        """The part of the result at the given sites, layers (-1 is the embedding), metrics, documents and positions.

        Without some of the sites, "decided" is judged by those that are left.

        Raises:
            InputError: something asked for is not in the result; the message lists what is.
        """
        columns, rows = site_columns(self.sites, sites, layers), self.rows(documents, positions)
        wanted = list(self.metrics) if metrics is None else chosen_from("metrics", metrics, self.metrics)
        depth = [i for i, name in enumerate(self.metrics) if name in wanted]
        if not depth:
            raise InputError(f"metrics is empty; choose from {', '.join(self.metrics)}")
        changed: dict[str, Any] = {
            "sites": tuple(self.sites[i] for i in columns),
            "metrics": tuple(self.metrics[i] for i in depth),
            "divergence": self.divergence[rows][:, columns][:, :, depth],
        }
        for name in ("document", "position", "token", "output_token", "generated"):
            value = getattr(self, name)
            changed[name] = None if value is None else value[rows]
        for name in ("agreement", "top_tokens", "top_log_probs", "surprisal", "rank", "target_surprisal", "target_rank"):
            value = getattr(self, name)
            changed[name] = None if value is None else value[rows][:, columns]
        return dataclasses.replace(self, **changed)

    def to_pandas(self) -> pd.DataFrame:
        """The long form: document, position, token, site, layer, and a column for every quantity and the top token."""
        rows, n_sites = self.agreement.shape
        row = torch.arange(rows).repeat_interleave(n_sites).numpy()
        column = torch.arange(n_sites).repeat(rows).numpy()
        texts = pd.Series(self.tokens(), dtype=object).to_numpy()
        names = pd.Series([site.name for site in self.sites], dtype=object).to_numpy()
        frame = pd.DataFrame(
            {
                "document": self.document.numpy()[row],
                "position": self.position.numpy()[row],
                "token": texts[row],
                "site": names[column],
                "layer": torch.tensor([site.layer for site in self.sites]).numpy()[column],
            }
        )
        for name, value in self.quantities().items():
            frame[name] = value.flatten().numpy()
        frame["agreement"] = self.agreement.flatten().numpy()
        if self.top_tokens is not None:
            frame["top_token"] = [self.strings[i] for i in self.top_tokens[:, :, 0].flatten().tolist()]
        frame["output_token"] = [self.strings[i] for i in self.output_token.numpy()[row].tolist()]
        if self.generated is not None:
            frame["generated"] = self.generated.numpy()[row]
        return frame

    def _title(self) -> list[str]:
        return [_heading(self, self.n_tokens, len(self.documents))]

    def _table(self) -> pd.DataFrame | None:
        return _profile_table(self.mean_profile()) if self.n_tokens else None

    def _notes(self) -> list[str]:
        return [_NOTE]


@dataclass(frozen=True, eq=False, repr=False)
class DivergenceSummary(Result):
    """The same means as ``LayerDivergence``, from sums over a corpus of any size.

    Attributes:
        sites: what the second axis of ``sums`` means.
        columns: what the third means: the metrics, "agreement" and "decided".
        against: as in ``LayerDivergence``.
        tokens: number of positions counted.
        documents: number of documents counted.
        sums: [5, site, column] float64, in nats, radians and shares: Σ n_d, Σ S_d, Σ n_d², Σ n_d S_d, Σ S_d² over documents d.
        unit: the unit of what the methods return.
        provenance: model, settings, corpus, versions.
    """

    sites: tuple[Site, ...]
    columns: tuple[str, ...]
    against: str
    tokens: int
    documents: int
    sums: Float[Tensor, "5 site column"]
    provenance: Provenance
    unit: Unit = "nats"

    @property
    def metrics(self) -> tuple[str, ...]:
        """The divergences measured."""
        return tuple(name for name in self.columns if name not in ("agreement", "decided"))

    def mean_profile(self, quantities: str | Iterable[str] | None = None) -> pd.DataFrame:
        """As ``LayerDivergence.mean_profile``: site, layer, quantity, unit, mean, se, tokens, documents."""
        if not self.tokens:
            raise InputError("this result holds no position to take a mean of")
        wanted = self.columns if quantities is None else chosen_from("quantities", quantities, self.columns)
        n, s, nn, ns, ss = self.sums
        mean, se = clustered_mean(n, s, nn, ns, ss, self.documents)
        frames = []
        for name in wanted:
            i = self.columns.index(name)
            factor = PER_NAT[self.unit] if name in _IN_UNIT else 1.0
            columns = stream_columns(self.sites) if name == "decided" else range(len(self.sites))
            counts = (self.tokens, self.documents)
            frames += _lines(
                self.sites, columns, name, unit_of(name, self.unit), mean[:, i] * factor, se[:, i] * factor, counts
            )
        return pd.DataFrame(frames)

    def to_pandas(self) -> pd.DataFrame:
        """The mean profile."""
        return self.mean_profile()

    def _title(self) -> list[str]:
        return [_heading(self, self.tokens, self.documents)]

    def _table(self) -> pd.DataFrame | None:
        return _profile_table(self.mean_profile()) if self.tokens else None

    def _notes(self) -> list[str]:
        return [_NOTE]


def stream_columns(sites: Sequence[Site], *, required: bool = True) -> list[int]:
    """Where in ``sites`` the states of the residual stream are.

    Raises:
        InputError: nowhere, and one is required.
    """
    found = [i for i, site in enumerate(sites) if site.name in STREAM_SITES]
    if required and not found:
        raise InputError(f"decided: none of the sites is a state of the residual stream ({', '.join(sorted(STREAM_SITES))})")
    return found


def first_to_stay(agreement: Tensor) -> Tensor:
    """For each row of ``agreement`` [row, site] the first site from which on it holds; the number of sites where it never does.

    >>> first_to_stay(torch.tensor([[True, False, True, True], [True, True, True, False]])).tolist()
    [2, 4]
    """
    stays = agreement.flip(1).long().cumprod(1).sum(1)
    return agreement.shape[1] - stays


def _lines(
    sites: Sequence[Site], columns: Iterable[int], name: str, unit: str, mean: Tensor, se: Tensor, counts: tuple[int, int]
) -> list[dict[str, Any]]:
    return [
        {
            "site": sites[i].name, "layer": sites[i].layer, "quantity": name, "unit": unit, "mean": mean[i].item(),
            "se": se[i].item(), "tokens": counts[0], "documents": counts[1],
        }
        for i in columns
    ]  # fmt: skip
