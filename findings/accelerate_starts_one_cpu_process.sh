#!/usr/bin/env bash
# accelerate 1.15.0, torch 2.13.0 (CPU build): `accelerate launch --cpu --num_processes 3` starts the script once, and says nothing of the
# other two. Where to meet is in the environment (MASTER_ADDR, MASTER_PORT), a rank and a number of processes are not, and
# `Accelerator().num_processes` is 1: a loop that splits its data by it runs as if nothing had been asked. More processes on a CPU
# come from mpirun alone, by `--mpirun_hostfile`.
# Guess before: three processes, ranks 0 to 2, as `--multi_gpu --num_processes 3` or `torchrun --nproc-per-node 3` would start.
# Seen: one line, "process 0 of 1, RANK not set, meets at 127.0.0.1", exit status 0, no warning
set -eu
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/pip" install -q torch==2.13.0 accelerate==1.15.0
cat >"$room/script.py" <<'PYTHON'
import os

from accelerate import Accelerator

here = Accelerator(cpu=True)
rank = os.environ.get("RANK", "not set")
print(f"process {here.process_index} of {here.num_processes}, RANK {rank}, meets at {os.environ['MASTER_ADDR']}")
PYTHON
cd "$room"
venv/bin/accelerate launch --cpu --num_processes 3 --num_machines 1 --mixed_precision no --dynamo_backend no script.py >said.txt 2>warned.txt
cat said.txt warned.txt
[ "$(cat said.txt)" = "process 0 of 1, RANK not set, meets at 127.0.0.1" ] || { echo "another number of processes now"; exit 1; }
if grep -qi "process" warned.txt; then echo "it says so now"; exit 1; fi
