"""Every method of every kind of result, by the files that versions have saved, and values that are right or odd for it."""

from __future__ import annotations

import inspect
import math
import random
import sys
from functools import cache
from pathlib import Path

import numpy as np
import torch

import tl_entropy as tle

FILES = {
    path.stem: path
    for folder in ("saved_by_0_5_0", "saved_since_0_5_0")
    for path in sorted((Path(__file__).parent / "results" / folder).glob("*.safetensors"))
    if path.stem != "TunedLens"
}
LEFT_OUT = ("row_columns", "cut_off", "save", "kinds")
"""What takes what is within; and ``save``, which ``attack/test_paths.py`` tries."""

RIGHT = {
    "unit": ["nats", "bits"], "rho": [0.85], "threshold": [0.5], "deep": ["rho"], "by": ["document", "space"], "n": [1, 2],
    "method": ["average", "single"], "family": [None, "information"], "part": ["both", "anchors", "documents"],
    "edit": [None, "int4"], "side": ["input", "output"], "width": [1, 2], "q": [0.5, (0.25, 0.75)], "pattern": [r"\w+", "("],
    "spans": [None, [(0, 1)]], "window": [None, 2], "tolerance": [0.05], "place": [0], "label": [0, None], "draw": [0],
    "of": ["entropy", "information", "loss"], "document": [0, None], "source": [0, None],
    "quantity": ["entropy", "jsd", "kl", None], "metric": ["jsd", "kl", None], "measure": ["curvature"],
    "documents": [0, [0, 1]], "positions": [0, slice(1, None)], "sites": ["resid_post", "embed"], "layers": [0, -1],
    "orders": [1, (1, 2)], "labels": ["token"], "heads": [0], "memory_bits": [None, 8], "memory_tokens": [None, 8],
    "context": ["", "a b"], "frequency": [None, {"a": 1.0}], "features": ["x"], "name": ["jsd", "entropy"],
}  # fmt: skip
ODD = [
    None, True, 0, 1, -1, 65, 2**70, -(2**63), 0.5, 1.5, 1e300, math.inf, -math.inf, math.nan, 1j, "", "x", "(", "nats", "bits",
    "entropy", "information", "embed", "resid_post.0", "token", b"1", [], (), {}, {1}, [1, 2], [0.5], ["a"], ["a", None],
    [[1, 2], [3]], (0, math.nan), [(0, 1)], [(1, 0)], object(), slice(0, 2), slice(None, None, -1), slice("a"), range(3), print,
    np.int8(1), np.float16(0.5), np.array([]), np.array(3), np.array([1, 2]), np.array(["a"]), torch.tensor(1),
    torch.tensor([]), torch.tensor([1.5, math.nan]), torch.ones(2, 2), tle.Site("embed", -1), [tle.Site("z", 3)],
]  # fmt: skip


@cache
def result(name):
    return tle.load(FILES[name])


def methods(name):
    """Names of the public methods of a result."""
    kind = type(result(name))
    return [n for n, _ in inspect.getmembers(kind, callable) if n[0] != "_" and n not in LEFT_OUT]


def parameters(name, method):
    """Names of its parameters, and which of them have to be given."""
    found = inspect.signature(getattr(result(name), method)).parameters
    return {key: one.default is one.empty for key, one in found.items()}


def tried(times):
    """So many calls of every method, some of whose arguments are odd: how many were refused, and every raw error."""
    draw, refused, raw = random.Random(0), 0, []
    for name, method in [(file, one) for file in FILES for one in methods(file)] * times:
        asked = {}
        for key, needed in parameters(name, method).items():
            if needed or draw.random() < 0.35:
                right = RIGHT.get(key) if draw.random() < 0.4 else None
                asked[key] = draw.choice(right or ODD)
        try:
            getattr(result(name), method)(**asked)
        except tle.TLEntropyError:
            refused += 1
        except Exception as error:
            raw.append((name, method, asked, error))
    return refused, raw


if __name__ == "__main__":
    refused, raw = tried(int(sys.argv[1]))
    sys.stdout.write(f"{refused} calls refused\n" + "".join(f"raw: {found}\n" for found in raw))
