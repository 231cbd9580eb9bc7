"""Soft information as tables: the long form, single labels, and what a result prints of itself.

A cell of the printed table says where its value is no finding: where the standard error, or what few positions a label leave
open (the distance of the fold jackknife), is as large as the value itself.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
import torch

from tl_entropy.errors import counted
from tl_entropy.results.printing import plus_minus, title

UNSURE = "unsure"


def long_form(result: Any, quantities: tuple[str, ...]) -> pd.DataFrame:
    """One line for each place, label set and draw, with these quantities."""
    new = result.information is not None
    values = {of: result.value(of) for of in quantities}
    errors = {of: {f"{of}_se": result.error(of)} for of in ("information", "share", "entropy", "plug_in")}
    if new:
        errors["information"] |= {f"information_se_{part}": result.error(part=part) for part in ("documents", "anchors")}
    of_labels = ["tokens", "coverage", "classes", "singletons", *(["in_two_folds"] if new else [])]
    lines = []
    for i, (site, head) in enumerate(zip(result.sites, result.heads, strict=True)):
        for j, label in enumerate(result.labels):
            for k, (bins, seed) in enumerate(zip(result.n_bins, result.seeds, strict=True)):
                line: dict[str, Any] = {"site": site.name, "layer": site.layer, "head": head, "label": label}
                line |= {"n_bins": bins, "seed": seed}
                for of, value in values.items():
                    line |= {name: found[i, j, k].item() for name, found in {of: value, **errors.get(of, {})}.items()}
                line |= {name: getattr(result, name)[j].item() for name in of_labels}
                line |= {"documents": result.documents, "dropped": result.dropped}
                line |= {"temperature": result.temperatures[i, k].item()}
                line["reason"] = result.reason(i, j, k) if math.isnan(line["information"]) else ""
                lines.append(line)
    return pd.DataFrame(lines)


def single_labels(result: Any, part: slice, texts: tuple[str, ...]) -> pd.DataFrame:
    """One line for each place, draw and label seen twice or more of the label set whose labels are at ``part``."""
    counts = result.label_counts[part]
    order = torch.argsort(counts, descending=True, stable=True)
    order = order[counts[order] > 1]
    columns = {
        "information": result.label_corrected, "information_se": result.label_se, "plug_in": result.label_information,
        "entropy": result.label_entropy,
    }  # fmt: skip
    frames = []
    for i, (site, head) in enumerate(zip(result.sites, result.heads, strict=True)):
        for k, (bins, seed) in enumerate(zip(result.n_bins, result.seeds, strict=True)):
            frame = pd.DataFrame({"text": [texts[c] for c in order.tolist()], "count": counts[order].tolist()})
            for name, values in columns.items():
                if values is not None:
                    frame[name] = values[i, part, k][order].tolist()
            where = {"site": site.name, "layer": site.layer, "head": head, "n_bins": bins, "seed": seed}
            frames.append(pd.DataFrame({name: [value] * len(frame) for name, value in where.items()}).join(frame))
    return pd.concat(frames, ignore_index=True)


def title_lines(result: Any) -> list[str]:
    """The first line."""
    axes = {"place": len(result.sites), "label set": len(result.labels), "draw": len(result.seeds)}
    return [title(result, " x ".join(counted(n, name) for name, n in axes.items()))]


def table(result: Any) -> pd.DataFrame:
    """Information ± error and H(Z), places by label sets, means over draws."""
    tables = []
    for bins in dict.fromkeys(result.n_bins):
        part = result.select(n_bins=bins)
        text = {"H(Z)": _cells(part, "entropy", 0)}
        for j, label in enumerate(result.labels):
            text[f"I({label};Z)"] = _cells(part, "information", j)
        bound = "ceiling" if result.information is None else "corrected_ceiling"
        text["ceiling"] = [f"{value:.3f}" for value in part.value(bound)[:, 0].mean(-1).tolist()]
        names = [str(s) if h < 0 else f"{s} head {h}" for s, h in zip(result.sites, result.heads, strict=True)]
        names = [f"{name}, {bins} bins" if len(set(result.n_bins)) > 1 else name for name in names]
        tables.append(pd.DataFrame(text, index=names).iloc[_shown(result)])
    return pd.concat(tables)


def notes(result: Any) -> list[str]:
    """What is to be known of the table."""
    new = result.information is not None
    found = [_of_errors(result), *(_parts(result) if new else [])]
    if not bool((result.fold_tokens == result.fold_tokens[:, :1]).all()):
        found.append(f"H(Z) and ceiling shown are those of the positions with {result.labels[0]}; others in to_pandas()")
    constant = [name for name in result.provenance.settings.get("constant_in_documents", ()) if name in result.labels]
    if constant and not new:
        found.append(
            f"{', '.join(constant)}: one label a document, but chance is that of single positions and too low for them; "
            "compare with labels shuffled between documents"
        )
    if new and 2 in result.n_bins and len(set(result.seeds)) == 1:
        found.append("2 bins: two anchors say nothing of their error, so that there is no ±; give several seeds")
    for j, label in enumerate(result.labels):
        positions = f"{counted(int(result.tokens[j]), 'position')} ({result.coverage[j]:.1%} of those read)"
        note = f"{label}: {positions}, {counted(int(result.classes[j]), 'label')}, {result.singletons[j]:.1%} of them seen once"
        if new:
            note += f", {result.in_two_folds[j]:.1%} of positions have one that two folds of documents hold"
        found.append(note)
    for label, names in zip(result.labels, result.one_fold, strict=False):
        if names:
            found.append(f"{label}: not identifiable, since in one fold of documents only: {', '.join(names)}")
    if table(result).map(lambda cell: UNSURE in cell).to_numpy().any():
        found.append(
            f"{UNSURE}: the error, or what few positions a label leave open (see fold_jackknife), is as large as the value"
        )
    unknown: dict[str, dict[str, None]] = {}  # why a value is NaN, and of which label sets
    for i, j, k in result.value().isnan().nonzero().tolist():
        unknown.setdefault(result.reason(i, j, k), {})[result.labels[j]] = None
    found += [f"nan ({', '.join(labels)}): {why}" for why, labels in unknown.items()]
    hidden = len(result.heads) - len(_shown(result))
    if hidden:
        found.append(f"{counted(hidden, 'head')} not shown: see to_pandas(), select(sites=...), plots.heads()")
    if result.dropped:
        found.append(f"{counted(result.dropped, 'position')} dropped: a state there was zero or not finite")
    return found


def unsure(result: Any) -> torch.Tensor:
    """Where the information, mean over draws, is no finding [place, label] bool; nowhere in files of 0.5.0."""
    value, *errors = result.mean(result.values())
    if result.information is None:
        return torch.zeros_like(value, dtype=torch.bool)
    open_part = (result.value("fold_jackknife").mean(-1) - value).abs()
    known = torch.hypot(*(error.nan_to_num(0) for error in errors))  # where one part can't be told, the other counts
    found: torch.Tensor = torch.maximum(known, open_part.nan_to_num(0)) >= value.abs()
    return found


def _shown(result: Any) -> list[int]:
    """The places in the table: those without heads, or the first heads where there is nothing else."""
    return [i for i, head in enumerate(result.heads) if head < 0] or list(range(min(len(result.heads), 12)))


def _cells(result: Any, of: str, label: int) -> list[str]:
    """Means over draws with their errors, by place, and where they are unsure."""
    value, documents, anchors = (found[:, label] for found in result.mean(result.values(of)))
    both = documents if result.information is None else torch.hypot(documents, anchors)
    cells = plus_minus(value.tolist(), both.tolist())
    if of != "information":
        return cells
    flags = unsure(result)[:, label].tolist()
    return [f"{cell} {UNSURE}" if flag else cell for cell, flag in zip(cells, flags, strict=True)]


def _of_errors(result: Any) -> str:
    """What the information is, and what its error holds."""
    folds = int((result.fold_tokens.sum(1) > 0).sum())
    one = f"; one {'document' if result.documents == 1 else 'fold'}, so no standard errors"
    seeds = len(set(result.seeds))
    if result.information is None:
        text = "information corrected for chance" + (
            one if folds < 2 else f" ± standard error over {counted(result.documents, 'document')}"
        )
        return text + (f", means over {seeds} seeds of anchors, whose spread ± does not hold" if seeds > 1 else "")
    if folds < 2:
        return f"information cross-fitted{one}"
    anchors = f"{seeds} seeds of anchors, of which means are shown" if seeds > 1 else "anchors (jackknife of one seed)"
    return f"information cross-fitted ± standard error over {counted(result.documents, 'document')} and over {anchors}"


def _parts(result: Any) -> list[str]:
    """Both parts of the error of the information, in the middle of the places shown."""
    parts = [result.select(n_bins=bins) for bins in dict.fromkeys(result.n_bins)]
    found = [part.mean(part.values())[1:] for part in parts]
    documents, anchors = (torch.cat([of[_shown(result)] for of in every]) for every in zip(*found, strict=True))
    middle = [[float(part[:, j].nanmedian()) for part in (documents, anchors)] for j in range(len(result.labels))]
    told = [f"{label} {a:.3f} and {b:.3f}" for label, (a, b) in zip(result.labels, middle, strict=True) if math.isfinite(a + b)]
    return [f"of ± are over documents and over anchors (medians of places): {', '.join(told)}"] if told else []
