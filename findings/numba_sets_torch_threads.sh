#!/usr/bin/env bash
# numba 0.68.1 beside torch 2.13.0: the first numba function that computes in parallel (umap-learn has some, whatever its n_jobs) sets the
# number of threads of torch as well, to NUMBA_NUM_THREADS, which is all cores where it is not set. `torch.set_num_threads(1)` or
# OMP_NUM_THREADS=1, as workers of a test run or of a data loader have it, is undone without a word, and every later product of that process
# shares all cores with its neighbours. Every later parallel call does it again.
# Guess before: the two libraries have thread counts of their own, and torch's stays what it was set to.
# Seen (NUMBA_NUM_THREADS=3): torch.get_num_threads() 1 before, 3 after; set to 1 again, 3 after the next call
set -eu
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q torch==2.13.0 numba==0.68.1 numpy==2.4.6
cd "$room"
NUMBA_NUM_THREADS=3 OMP_NUM_THREADS=1 venv/bin/python - <<'PYTHON'
import numba
import numpy as np
import torch

torch.set_num_threads(1)


@numba.njit(parallel=True)
def total(values):
    found = 0.0
    for i in numba.prange(len(values)):
        found += values[i]
    return found


assert total(np.ones(100)) == 100
print(f"torch computes with 1 thread before, {torch.get_num_threads()} after, numba's layer being {numba.threading_layer()}")
assert torch.get_num_threads() == 3
torch.set_num_threads(1)
assert total(np.ones(100)) == 100
print(f"set to 1 again: {torch.get_num_threads()} after the next call")
assert torch.get_num_threads() == 3
PYTHON
