"""The command line, run as a user does."""

from __future__ import annotations

import sys
from functools import cache

import pytest

import tl_entropy as tle
from tl_entropy import cli

load_once = cache(tle.load_model)  # most commands here read the bundled model, and none changes it


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(tle, "load_model", load_once)
    monkeypatch.setattr(sys, "argv", ["tl-entropy", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return ended.value.code, printed.out, printed.err


def refused_in_one_line(monkeypatch, capsys, folder, arguments, message):
    """The command fails, says ``message`` in its only line, and leaves nothing in the folder that it is run in."""
    monkeypatch.chdir(folder)
    status, out, err = run(monkeypatch, capsys, *arguments)
    assert status == 2
    lines = [line for line in err.splitlines() if "tok/s" not in line and line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("tl-entropy: ")
    assert message in lines[0]
    assert not out
    assert not list(folder.iterdir())
