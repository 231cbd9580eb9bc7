"""The page that shows how soft entropy assigns: its numbers are the package's, and it asks nothing of anybody."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from browser import dom, needs_browser, with_script

from tl_entropy.functional import soft_mutual_information
from tl_entropy.functional.information.estimates import MIN_ROWS
from tl_entropy.functional.information.soft import soft_assignments
from tl_entropy.functional.probabilities import entropy

FIGURES = Path(__file__).parents[3] / "figures"
START = {"heat": 3, "bins": 24, "seed": 0, "kappa": 3, "labels": 4, "points": 2, "point": 0, "random": False}
SETTINGS = [
    START,
    {**START, "heat": 0, "bins": 64, "seed": 7, "kappa": 0.5, "labels": 7, "point": 33},
    {**START, "labels": 60, "points": 3, "random": True, "point": 399},
    {**START, "heat": -4, "bins": 2, "labels": 12, "points": 0, "kappa": 7},
    {**START, "labels": 60, "points": 0},  # each label once
]


@pytest.fixture(scope="module")
def assignment():
    sys.path.insert(0, str(FIGURES))
    try:
        import assignment
    finally:
        sys.path.remove(str(FIGURES))
    return assignment


def expected(data, chosen):
    """What the package says of the points that the sliders choose."""
    k, n = chosen["labels"], data["points"][chosen["points"]]
    cloud = np.arange(n) % k
    angle = 2 * math.pi * cloud / k + 0.3 + np.array(data["noise"][:n]) / math.sqrt(2 ** chosen["kappa"])
    label = torch.from_numpy(np.floor(np.array(data["dealt"][:n]) * k).astype(int) if chosen["random"] else cloud)
    z = torch.from_numpy(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    temperature = data["temperature"][chosen["bins"]] * 2 ** chosen["heat"]
    found = soft_mutual_information(z, label, n_bins=chosen["bins"], seed=chosen["seed"], temperature=temperature)
    p = soft_assignments(z, torch.tensor(data["anchors"][chosen["seed"]][: chosen["bins"]]), temperature)
    information = found.information.item()
    corrected = found.corrected_ceiling.item()
    return {
        "entropy": found.entropy.item(), "entropy-all": found.entropy.item(), "most": math.log(chosen["bins"]),
        "entropy-x": entropy(p[label == label[chosen["point"]]].mean(0)).item(),
        "entropy-z": entropy(p[chosen["point"]]).item(),
        "own": entropy(p).mean().item(), "ceiling": found.ceiling.item(), "plug-in": found.plug_in.item(),
        "information": information, "corrected": corrected, "share": information / corrected,
    }  # fmt: skip


PROBE = """
const seen = {found: [], hacked: null};
for (const chosen of SETTINGS) {
  for (const name of ["points", ...Object.keys(chosen)]) {
    const input = document.getElementById(name);
    if (name === "random") input.checked = chosen[name]; else input.value = chosen[name];
    input.dispatchEvent(new Event("input"));
  }
  const values = {};
  for (const element of document.querySelectorAll("data")) values[element.id] = [element.value, element.textContent];
  const count = (what) => document.querySelectorAll(what).length;
  seen.found.push({values, dashes: count(".point"), dots: count(".circle .anchor"), bars: count("#bars-all rect"),
    why: document.getElementById("why").textContent});
}
const circle = document.querySelector(".circle"), box = circle.getBoundingClientRect();
document.getElementById("point").value = 0;
const dash = document.querySelectorAll(".point")[41].getBoundingClientRect();
circle.dispatchEvent(new MouseEvent("click", {clientX: dash.x + dash.width / 2, clientY: dash.y + dash.height / 2}));
seen.clicked = document.getElementById("point").value;
seen.wide = document.documentElement.scrollWidth - innerWidth;
seen.asked = performance.getEntriesByType("resource").length;
const script = document.createElement("script"); script.textContent = "window.hacked = 2";
document.body.append(script);
seen.hacked = String(window.hacked);
document.body.dataset.seen = encodeURIComponent(JSON.stringify(seen));
"""


@needs_browser
@pytest.mark.parametrize("width", [1200, 500])
def test_its_numbers_are_those_of_the_package(assignment, width):
    chosen = SETTINGS if width > 1000 else SETTINGS[-1:]
    probe = PROBE.replace("SETTINGS", json.dumps(chosen))
    elements = dom(with_script(assignment.html(), probe), size=(width, 900))
    seen = json.loads(unquote(re.search('data-seen="([^"]*)"', elements)[1]))
    data = json.loads(json.dumps(assignment.numbers()))
    for one, found in zip(chosen, seen["found"], strict=True):
        for name, value in expected(data, one).items():
            exact, shown = found["values"].pop(name)
            assert float(exact) == pytest.approx(value, abs=1e-6, nan_ok=True), (one, name)
            rounded = shown == "–" if math.isnan(value) else float(shown.replace("−", "-")) == pytest.approx(value, abs=6e-4)
            assert rounded, (one, name)
        assert not found["values"], "a number that nobody has checked"
        drawn = (found["dashes"], found["dots"], found["bars"])
        assert drawn == (data["points"][one["points"]], one["bins"], one["bins"]), one
        assert found["why"].startswith("only 0 points" if one == SETTINGS[-1] else "two errors"), one
    assert seen["clicked"] == "41"
    assert seen["wide"] <= 0, "nothing is wider than the page"
    assert seen["asked"] == 0
    assert seen["hacked"] == "undefined", "a script that the page did not bring does not run"


def test_labels_that_say_nothing_are_seen_to_say_nothing(assignment):
    found = expected(assignment.numbers(), SETTINGS[2])
    assert found["plug-in"] > 0.3
    assert abs(found["information"]) < 0.06
    assert assignment.numbers()["least"] == MIN_ROWS


def test_the_file_is_what_the_script_writes(assignment):
    assert (FIGURES / "soft_assignment.html").read_text(encoding="utf-8") == assignment.html(), "run figures/assignment.py"


def test_it_names_no_address(assignment):
    outside = re.sub(r"http://www\.w3\.org/2000/svg", "", assignment.html())
    assert not re.search(r"https?:|src=|href=|@import|url\(", outside)
