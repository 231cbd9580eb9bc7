"""The page of the docs that shows the sweep: ``python tests/architectures/report.py > docs/architectures.md``.

Everything on it is measured while it is made, in a few minutes; nothing on it depends on the day.
"""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path

if __name__ == "__main__":  # pytest puts this folder into the path by itself
    sys.path.insert(0, str(Path(__file__).parents[1]))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")

from architectures.measures import LENGTHS, TOLERANCE, Outcome, outcomes
from architectures.row import MEASURES, Row
from architectures.table import ROWS, WITHOUT_A_CLASS, WITHOUT_TEXT

LEGEND = {
    "last": "entropies at the last site, against those of Hugging Face's logits (`lens_entropy`, orders .5, 1, 2)",
    "sites": "entropies at the embedding and every `resid_post`",
    "batch": "the same of three texts together, padded on the right and on the left, against each alone",
    "cache": "the same from an ActivationCache of the three texts, padded on the left",
    "pattern": "entropies, visible keys and sink share of attention (`head_entropy`)",
    "readout": "what heads write, through the frozen final norm (`head_entropy(of='readout')`)",
    "kl": "KL of every site from the output (`layer_divergence`)",
    "soft": "soft entropy and information at every site and of every head's z (`soft_information`)",
    "cka": "CKA of every site with the output (`layer_similarity`)",
    "loss": "losses of every token (`token_surprisal`)",
    "mid": "entropies at `resid_mid`",
    "attn": "entropies at `attn_out`",
    "mlp": "entropies at `mlp_out`",
    "ablate": "entropies at the last site with a head ablated (`ablate_heads`)",
    "mask": "the same with a token hidden from attention (`mask_attention`)",
    "bf16": "entropies at the last site in bfloat16, against Hugging Face's own bfloat16 logits",
}
FAULTS = {
    "off": "another number, in silence: ", "failed": "a raw error: ", "refused": "a needless or untrue refusal: ",
    "ok": "a number that means something else: ", "outside": "now outside: ", "untold": "now without a truth: ",
}  # fmt: skip
SHOWN = {"ok": "ok", "refused": "refused", "absent": "–", "outside": "out", "wrong": "**wrong**"}


def symbol(row: Row, measure: str) -> str:
    """What the table shows of a cell, from what is expected of it; refusals get the number of their reason."""
    if row.expected("boot").kind == "outside":
        return SHOWN["outside"]
    return SHOWN[row.expected(measure).kind]


def reason(text: str) -> str:
    """A message without what differs from model to model."""
    text = re.sub(r"^\w+: ", "", text)
    text = re.sub(r" \((off by|by|did you mean) [^()]*\)| and weights in b?float\d+", "", text)
    text = re.sub(r"'ablate heads \d+\.\d+'", "'ablate heads ...'", text)
    return re.sub(r"blocks\.\d+\.", "blocks.N.", re.sub(r"\b(layer|heads:) -?\d+(\.\d+)?", r"\1 N", text))


def table(found: dict[str, dict[str, Outcome]]) -> tuple[list[str], list[str]]:
    """The table's lines, and the reasons that its numbers stand for."""
    reasons: list[str] = []
    lines = [f"| model | {' | '.join(MEASURES)} |", f"|---{'|---' * len(MEASURES)}|"]
    for row in ROWS:
        if row.name not in found:
            continue
        cells = []
        for measure in MEASURES:
            cell = symbol(row, measure)
            if cell == SHOWN["refused"]:
                why = reason(found[row.name][measure].text)
                reasons += [] if why in reasons else [why]
                cell = f"[{reasons.index(why) + 1}]"
            cells.append(cell)
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines, reasons


def page(found: dict[str, dict[str, Outcome]]) -> str:
    """The whole page."""
    import transformers

    rows = [row for row in ROWS if row.name in found]
    counts = Counter(symbol(row, measure) for row in rows for measure in MEASURES)
    lines, reasons = table(found)
    worst = {
        measure: max((cells[measure].difference for cells in found.values() if kind(cells, measure) == "ok"), default=0.0)
        for measure in MEASURES
    }
    wrong = [(row, measure) for row in rows for measure in MEASURES if symbol(row, measure) == SHOWN["wrong"]]
    out = [
        "# Architectures",
        "",
        f"What tl_entropy says of {len(rows)} tiny random models of {len({row.architecture for row in rows})} Hugging Face "
        "classes, each behind a TransformerBridge. Every number is computed a second time from a copy of the Hugging Face "
        "model made before the Bridge took it in: hidden states, attention weights and inputs of output projections caught "
        "with PyTorch's own hooks, entropies in float64.",
        "",
        f"Measured with TransformerLens {version('transformer-lens')}, transformers {transformers.__version__} and torch "
        f"{version('torch').split('+')[0]} on a CPU, three texts of {', '.join(map(str, LENGTHS))} tokens, by "
        "`python tests/architectures/report.py > docs/architectures.md`; the same sweep is a step of the checks. A model that "
        "is not here has no row in `tests/architectures/table.py` yet.",
        "",
        "| cells | |",
        "|---|---|",
        f"| ok: within the tolerance below | {counts[SHOWN['ok']]} |",
        f"| [n]: refused, for the reason of that number | {counts[SHOWN['refused']]} |",
        f"| **wrong**: known and listed below, to be mended | {counts[SHOWN['wrong']]} |",
        *(f"| of these {text.removesuffix(': ')} | {n} |" for kind, text in FAULTS.items()
          if (n := sum(found[row.name][measure].kind == kind for row, measure in wrong))),
        f"| out: Hugging Face's or TransformerLens's own code fails before | {counts[SHOWN['outside']]} |",
        f"| –: nothing to compare with | {counts[SHOWN['absent']]} |",
        "",
        "| measure | what is compared | tolerance | largest difference |",
        "|---|---|---|---|",
        *(f"| {m} | {LEGEND[m]} | {TOLERANCE[m]:g} | {worst[m]:.1g} |" for m in MEASURES),
        "",
        "Where only some layers have attention, `pattern`, `readout`, `soft`, `attn` and `ablate` are of those.",
        "",
        "## The table",
        "",
        *lines,
        "",
        "## Reasons of refusals",
        "",
        *(f"{number}. {text}" for number, text in enumerate(reasons, 1)),
        "",
        "## What TransformerLens or Hugging Face cannot do",
        "",
        *(f"- {name}, {measure}: {reason(cells[measure].text)}" for name, cells in found.items() for measure in cells
          if cells[measure].kind == "outside"),
        "",
    ]  # fmt: skip
    if wrong:
        faults: dict[tuple[str, str], dict[str, list[str]]] = {}  # what is seen and what is right: model to measures
        for row, measure in wrong:
            outcome = found[row.name][measure]
            fault = f"{FAULTS[outcome.kind]}{reason(outcome.text)}".removesuffix(": ").replace("|", "\\|")
            faults.setdefault((fault, row.expected(measure).right), {}).setdefault(row.name, []).append(measure)
        out += ["## Wrong today", "", "| where | seen | right |", "|---|---|---|"]
        for (fault, right), at in faults.items():
            where = "; ".join(f"{name}: {' '.join(measures)}" for name, measures in at.items())
            out.append(f"| {where} | {fault} | {right} |")
        out.append("")
    lacking = [row for row in ROWS if row.name not in found]
    out += ["## Without a row", ""]
    out += [f"- {row.architecture}: this version of transformers has no such class" for row in lacking]
    out += [f"- {name}: {why}" for name, why in sorted({**WITHOUT_A_CLASS, **WITHOUT_TEXT}.items())]
    return "\n".join(out) + "\n"


def kind(cells: dict[str, Outcome], measure: str) -> str:
    return cells[measure].kind if measure in cells else ""


def main() -> None:
    import torch
    import transformers
    from architectures.making import exists
    from architectures.measures import surprises
    from tqdm import tqdm

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = {row.name: outcomes(row) for row in tqdm(ROWS) if exists(row)}
    sys.stderr.writelines(f"{line}\n" for row in ROWS if row.name in found for line in surprises(row, found[row.name]))
    sys.stdout.write(page(found))


if __name__ == "__main__":
    main()
