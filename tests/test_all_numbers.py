"""The script that writes every number: it finds a change in the last bit, and leaves out no public function."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json

import all_numbers
import numbers_of_models
import numbers_of_tensors
import pytest
import torch
from digests import differences
from tiny_models import cached_model, kinds

import tl_entropy as tle

DO_NOT_MEASURE = {
    "load",
    "load_model",
    "load_tuned_lens",
    "load_jacobian_lens",
    "load_accumulator",
    "load_assignments",
    "demo_names",
    "alone",
    "run",
    "read_stimuli",
    "estimation_model",
    "train_estimation",
    "memory_sweep",
    "memories",  # of models that are trained first
}


def a_few(name="lens_entropy/tiny", change=lambda result: result):
    record = all_numbers.Record()
    model = cached_model("gpt2", kinds()[0])
    record(name, lambda: change(tle.lens_entropy(model, ["the cat", "sat on the mat"], orders=(1, 2), progress=False)))
    numbers_of_tensors.write_tokens(record)
    return record.numbers


@pytest.mark.model
def test_two_runs_are_equal_and_a_change_is_named(tmp_path, capsys):
    def changed(result):
        entropy = result.entropy.clone()
        entropy[3, 1, 0] = torch.nextafter(entropy[3, 1, 0], torch.tensor(torch.inf))
        return dataclasses.replace(result, entropy=entropy)

    paths = [tmp_path / f"{i}.json" for i in range(3)]
    for path, numbers in zip(paths, (a_few(), a_few(), a_few(change=changed)), strict=True):
        path.write_text(json.dumps({"numbers": numbers}))
    assert all_numbers.main(["--compare", *map(str, paths[:2])]) == 0
    assert capsys.readouterr().out.startswith("0 of ")
    assert all_numbers.main(["--compare", *map(str, paths[1:])]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("lens_entropy/tiny/entropy: float32[")
    assert all(line.startswith("lens_entropy/tiny/") for line in lines[:-1])


def test_what_is_in_one_file_alone_differs():
    assert differences({"a": "1"}, {}) == ["a: only in the first, 1"]
    assert differences({}, {"a": "1"}) == ["a: only in the second, 1"]


def test_every_shape_and_dtype_and_refusal_is_a_number():
    record = all_numbers.Record()
    record("zeros", lambda: (torch.zeros(2, 3), torch.zeros(3, 2), torch.zeros(6, dtype=torch.float64), -torch.zeros(2, 3)))
    assert len(set(record.numbers.values())) == 4
    record("refused", tle.functional.shannon_entropy, torch.zeros(2, dtype=torch.long))
    assert (record.numbers["refused"], record.refused) == ("InputTypeError", ["refused"])
    with pytest.raises(TypeError, match="unknown: no numbers are known of a object"):
        record("unknown", object)


def test_no_public_function_is_left_out():
    named = set()
    numbers_of_tensors.write_tensors(lambda name, function, *given, **options: named.add(name.split("/")[0]))
    functions = {name for name in tle.functional.__all__ if inspect.isfunction(getattr(tle.functional, name))}
    assert named == functions - numbers_of_tensors.NOT_NUMBERS
    used = {node.attr for node in ast.walk(ast.parse(inspect.getsource(numbers_of_models))) if isinstance(node, ast.Attribute)}
    public = {name for name in tle.__all__ if inspect.isfunction(getattr(tle, name)) or name.endswith("Accumulator")}
    assert public - used == DO_NOT_MEASURE
