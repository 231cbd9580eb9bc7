"""The script of a Slurm array whose jobs all work on one run's folder."""

from __future__ import annotations

import shlex

_SCRIPT = """#!/bin/bash
#SBATCH --job-name=tl-entropy
#SBATCH --array=0-7                 # so many processes; any number will do, and may be changed
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --requeue                   # after a preemption the same command goes on
#SBATCH --signal=TERM@120           # two minutes before the end: what was read is saved
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log

exec srun {command}
"""


def script(config: str, folder: str) -> str:
    """The script; what it asks of the cluster is to be looked at.

    >>> print(script("study.yaml", "study").splitlines()[-1])
    exec srun tl-entropy run study.yaml --out study
    """
    return _SCRIPT.format(command=shlex.join(["tl-entropy", "run", config, "--out", folder]))
