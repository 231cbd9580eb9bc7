"""The measures of the sweep: each asks the package, then the truth, and says how far they are apart."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from architectures.making import bridge, hf_model
from architectures.row import MEASURES, Row
from architectures.truth import Truth, entropies
from torch import Tensor

import tl_entropy as tle

ORDERS = (0.5, 1.0, 2.0)
LENGTHS = (13, 7, 10)
HIDDEN = 2  # the token that is masked
HEAD = 1  # the head that is ablated
TOLERANCE = {measure: {"bf16": 0.15, "readout": 1e-3}.get(measure, 1e-4) for measure in MEASURES}
PACKAGE = Path(tle.__file__).parent
QUIET: dict[str, Any] = {"progress": False}


@dataclass(frozen=True)
class Outcome:
    """What was seen in a cell.

    Attributes:
        kind: "ok" and "off" were compared with the truth; "refused" is an error of the package, "failed" any other
            that came through it; "outside" failed before it came to the package; of "untold" the sweep knows no truth.
        text: the error, on one line.
        difference: the largest, in the measure's unit.
    """

    kind: Literal["ok", "off", "refused", "failed", "outside", "untold", "absent"]
    text: str = ""
    difference: float = float("nan")

    def __str__(self) -> str:
        if self.kind in ("ok", "off"):
            return f"{self.kind}: {self.difference:.2g}"
        return f"{self.kind}: {self.text}"


def texts() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(1, 290, (n,), generator=generator) for n in LENGTHS]


def largest(found: Tensor, right: Tensor) -> float:
    """The largest difference; infinite where one is not a number, or where there are more or fewer of them."""
    if found.shape != right.shape:
        return torch.inf
    return float((found.double() - right.double()).abs().max().nan_to_num(nan=torch.inf))


def of_heads(found: Tensor, right: Tensor) -> float:
    """The same for the heads [row, head, ...] of one layer, of which others may have more: those are to be NaN."""
    n = right.shape[1]
    return largest(found[:, :n], right) if found[:, n:].isnan().all() else torch.inf


class Unavailable(Exception):
    """What a measure would be about does not come about, through no part of the package."""


class Subject:
    """A row's model, wrapped, beside the truth about it."""

    def __init__(self, row: Row) -> None:
        self.row, self.texts = row, texts()
        self.hf = hf_model(row)
        self.truth = Truth(self.hf, row, self.texts)
        self.model = bridge(self.hf, row)
        self.n_layers = len(self.truth.blocks)

    # Each gives what the package says and what is right, or the largest difference.

    def lens(self, sites: Any = ("embed", "resid_post"), layers: Any = None, inputs: Any = None, **options: Any) -> Tensor:
        """[site, row, order]"""
        options = {"orders": ORDERS, "batch_size": 1, **QUIET, **options}
        found = tle.lens_entropy(self.model, self.texts if inputs is None else inputs, sites=sites, layers=layers, **options)
        return found.entropy.transpose(0, 1)

    def read_states(self) -> Tensor:
        """Logits [site, row, token] of embed and every resid_post."""
        return self.truth.read(torch.stack([self.truth.state("embed", -1), *self.posts()]))

    def posts(self) -> list[Tensor]:
        return [self.truth.state("resid_post", i) for i in range(self.n_layers)]

    def last(self) -> float:
        found = self.lens("resid_post", [self.n_layers - 1])[0]
        return largest(found, entropies(self.truth.all("logits"), ORDERS))

    def sites(self) -> float:
        return largest(self.lens(), entropies(self.read_states(), ORDERS))

    def batch(self) -> float:
        """All texts together, which the package pads on the right, and once more handed in padded on the left."""
        together, again = self.lens(batch_size=3), self.lens(inputs=self.left_padded(), batch_size=3)
        right = entropies(self.read_states(), ORDERS)
        return max(largest(together, right), largest(again, right))

    def cache(self) -> float:
        """A cache of all texts together, padded on the left: the model itself has to do without what is hidden."""
        tokens, mask = self.left_padded()
        try:
            with torch.no_grad():
                _, cache = self.model.run_with_cache(
                    tokens, attention_mask=mask, names_filter=lambda name: "hook_resid_p" in name
                )
        except Exception as error:
            raise Unavailable(f"TransformerLens makes no cache: {one_line(error)}") from error
        return largest(self.lens(inputs=(cache, tokens, mask)), entropies(self.read_states(), ORDERS))

    def left_padded(self) -> tuple[Tensor, Tensor]:
        width = max(LENGTHS)
        tokens, mask = torch.zeros(2, len(self.texts), width, dtype=torch.long)
        for i, ids in enumerate(self.texts):
            tokens[i, width - len(ids) :], mask[i, width - len(ids) :] = ids, 1
        return tokens, mask

    def pattern(self) -> float:
        layers = self.truth.layers
        found = tle.head_entropy(self.model, self.texts, orders=ORDERS, layers=self.some(layers), batch_size=3, **QUIET)
        worst = 0.0
        row = 0
        for ids, seen in zip(self.texts, self.truth.seen, strict=True):
            rows = slice(row, row + len(ids))
            row += len(ids)
            for place, layer in enumerate(layers):
                weights = seen["pattern", layer].double()  # [head, query, key]
                total = weights.sum(-1)
                right = entropies((weights / total[..., None]).log(), ORDERS).transpose(0, 1)
                worst = max(worst, of_heads(found.entropy[rows, place], right))
                worst = max(worst, of_heads(found.sink_share[rows, place], 1 - total.T))
                worst = max(worst, largest(found.visible[rows, place], (weights > 0).any(0).sum(-1)))
        return worst

    def some(self, layers: Sequence[int]) -> list[int] | None:
        """Layers to ask for; None where it is all of them, or none."""
        return None if len(layers) in (0, self.n_layers) else list(layers)

    def readout(self) -> float:
        found = tle.head_entropy(
            self.model, self.texts, of="readout", orders=ORDERS, layers=self.some(self.truth.layers), batch_size=3, **QUIET
        )
        right = [entropies(self.truth.head_readouts(layer), ORDERS).transpose(0, 1) for layer in self.truth.layers]
        return max((of_heads(found.entropy[:, place], layer) for place, layer in enumerate(right)), default=torch.inf)

    def kl(self) -> float:
        found = tle.layer_divergence(self.model, self.texts, metrics="kl", **QUIET).divergence[..., 0].T
        site, output = self.read_states().log_softmax(-1), self.truth.all("logits").log_softmax(-1)
        return largest(found, (output.exp() * (output - site)).sum(-1))

    def soft(self) -> float:
        layers, n_bins = self.truth.layers, 20
        asked = self.some(layers)
        found = tle.soft_information(
            self.model, self.texts, labels="token", sites=("embed", "resid_post") if asked is None else "resid_post",
            layers=asked, heads="z", folds=1, n_bins=n_bins, **QUIET,
        )  # fmt: skip
        worst = 0.0
        labels = torch.cat(self.texts)
        for place, (site, head) in enumerate(zip(found.sites, found.heads, strict=True)):
            if site.name == "z":
                state = self.truth.z(site.layer)
                state = state[:, head] if head < state.shape[1] else torch.full_like(state[:, 0], torch.nan)
            else:
                state = self.truth.state(site.name, site.layer)
            if not state.isfinite().all():
                return float("inf")
            right = torch.stack(soft_entropy_and_information(state, labels, n_bins))
            worst = max(worst, largest(torch.stack([found.entropy, found.plug_in])[:, 0, place, 0, 0], right))
        heads = sum(self.truth.heads(layer) for layer in layers)
        return worst if found.heads.count(-1) + heads == len(found.heads) else float("inf")

    def cka(self) -> float:
        found = tle.layer_similarity(self.model, self.texts, **QUIET).values[0, :, 0]
        states = [self.truth.state("embed", -1), *self.posts()]
        return largest(found, torch.stack([tle.functional.linear_cka(state, states[-1]) for state in states]))

    def loss(self) -> float:
        found = tle.token_surprisal(self.model, self.texts, **QUIET).surprisal
        rows = []
        for ids, seen in zip(self.texts, self.truth.seen, strict=True):
            log_p = seen["logits", -1].log_softmax(-1)
            # A decoder behind a start token has not read the token at its place, which is what it predicts.
            behind = self.hf.config.is_encoder_decoder and not self.truth.decoder_ids(ids[None])[0].equal(ids)
            said = zip(log_p, ids, strict=True) if behind else zip(log_p[:-1], ids[1:], strict=True)
            rows.append(torch.stack([-row[token] for row, token in said]))
        return largest(found[~found.isnan()], torch.cat(rows))

    def sublayer(self, site: str) -> float:
        layers = self.truth.layers if site == "attn_out" else list(range(self.n_layers))
        found = self.lens(site, self.some(layers))
        return largest(found, entropies(self.truth.read(torch.stack([self.truth.state(site, i) for i in layers])), ORDERS))

    def mid(self) -> float:
        return self.sublayer("resid_mid")

    def attn(self) -> float:
        return self.sublayer("attn_out")

    def mlp(self) -> float:
        return self.sublayer("mlp_out")

    def ablate(self) -> float:
        layer = self.truth.layers[-1] if self.truth.layers else 0
        edit = tle.ablate_heads([(layer, HEAD)])
        found = self.lens("resid_post", [self.n_layers - 1], interventions=edit)[0]
        return largest(found, entropies(self.truth.without_head(layer, HEAD), ORDERS))

    def mask(self) -> float:
        found = self.lens("resid_post", [self.n_layers - 1], interventions=tle.mask_attention(HIDDEN))[0]
        return largest(found, entropies(self.truth.hidden_key(HIDDEN), ORDERS))

    def bf16(self) -> float:
        """In bfloat16, beside Hugging Face's own logits in bfloat16."""
        hf = hf_model(self.row).to(torch.bfloat16)
        model, last = bridge(hf, self.row), [self.n_layers - 1]
        found = tle.lens_entropy(model, self.texts, sites="resid_post", layers=last, batch_size=1, **QUIET)
        return largest(found.entropy[:, 0], entropies(Truth(hf, self.row, self.texts).all("logits"), (1.0,)))


def soft_entropy_and_information(states: Tensor, labels: Tensor, n_bins: int) -> tuple[Tensor, Tensor]:
    """H(Z) and plug-in I(X; Z) in nats of states [row, d] and labels [row], by the definition."""
    anchors = tle.functional.soft_anchors(states.shape[1], n_bins).double()
    temperature = tle.functional.calibrate_temperature(states.shape[1], n_bins)
    assigned = (torch.nn.functional.normalize(states.double(), dim=1) @ anchors.T / temperature).softmax(-1)

    def entropy(p: Tensor) -> Tensor:
        return torch.special.entr(p).sum(-1)

    classes = [assigned[labels == label] for label in labels.unique()]
    within = sum(len(part) * entropy(part.mean(0)) for part in classes) / len(labels)
    whole = entropy(assigned.mean(0))
    return whole, whole - within


def attempt(measure: str, call: Callable[[], float]) -> Outcome:
    """The outcome of a call that gives a difference."""
    try:
        with warnings.catch_warnings(action="ignore"):
            difference = call()
    except tle.TLEntropyError as error:
        return Outcome("refused", one_line(error))
    except Unavailable as error:
        return Outcome("outside", str(error))
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = any(Path(frame.filename).is_relative_to(PACKAGE) for frame in frames)
        return Outcome("failed" if own else "untold", one_line(error))
    return Outcome("ok" if difference <= TOLERANCE[measure] else "off", difference=difference)


def one_line(error: Exception) -> str:
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")


def outcomes(row: Row, measures: Sequence[str] = MEASURES) -> dict[str, Outcome]:
    """What is seen in these cells of a row; of a model that cannot be wrapped, in "boot" alone."""
    try:
        with warnings.catch_warnings(action="ignore"):
            subject = Subject(row)
    except Exception as error:
        return {"boot": Outcome("outside", one_line(error))}
    found = {}
    for measure in measures:
        expected = row.expected(measure)
        if expected.kind == "absent":
            found[measure] = Outcome("absent", expected.text)
        else:
            found[measure] = attempt(measure, getattr(subject, measure))
    return found


def surprises(row: Row, found: dict[str, Outcome]) -> list[str]:
    """The cells where something else is seen than the row expects, one line each."""
    lines = []
    for measure, outcome in found.items():
        expected = row.expected(measure)
        if expected.kind == "wrong":
            fits = re.search(expected.text, str(outcome)) is not None
        else:
            fits = outcome.kind == expected.kind and re.search(expected.text, outcome.text) is not None
        if not fits:
            lines.append(f"{row.name}, {measure}: expected {expected.kind} {expected.text!r}; seen {outcome}")
    if row.expected("boot").kind == "outside" and "boot" not in found:
        lines.append(f"{row.name}: it can be wrapped now; take boot out of its cells")
    return lines
