"""Measure soft information at every kept checkpoint of a training of the bundled model, for ``make.py`` to draw.

    python -m tl_entropy.demo.train --out training --steps 3000 --keep 0,1,2,4,8,16,32,64,128,256,512,1000,2000,3000
    python figures/training.py training

reads the checkpoints ``training/step-*`` one after the other, on texts that the training never saw and with one label plan for
all, and writes a result file for each step into ``figures/training``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tl_entropy as tle
from tl_entropy.capture.progress import Bar

LABELS = ("token", "bigram", "next_token", "next_bigram")
CHARACTERS = 8000
"""Of each held-out module that are read."""


def main() -> None:
    """Measure the checkpoints that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("training", type=Path, help="folder that the training wrote, with step-* in it")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "training", help="folder for the results")
    arguments = parser.parse_args()
    steps = sorted(int(folder.name.removeprefix("step-")) for folder in arguments.training.glob("step-*"))
    if not steps:
        parser.error(f"{arguments.training} holds no step-* folder; train with --keep")
    texts = [text[:CHARACTERS] for text in tle.demo_texts()]
    plan = tle.label_plan(tle.load_model(arguments.training / f"step-{steps[0]}"), texts, labels=LABELS)
    for step in Bar(steps, show=True, unit="checkpoint"):
        model = tle.load_model(arguments.training / f"step-{step}")
        result = tle.soft_information(model, texts, labels=plan, progress=False)
        result.save(arguments.out / f"step-{step}.safetensors")


if __name__ == "__main__":
    main()
