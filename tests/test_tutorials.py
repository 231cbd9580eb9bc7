"""Every notebook runs from top to bottom, offline, on the bundled model.

``TL_ENTROPY_EXECUTED`` names a folder that they are written to with their outputs, for the site to show. One that needs a
model which is not here is stored with its outputs, which ``.ci/run --long`` makes again; here the bundled model stands in.
"""

import ast
import inspect
import multiprocessing
import os
import signal
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import tl_entropy as tle

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
ABSENT = 'tle.demo_model("smollm2")'
STAND_IN = {ABSENT: "tle.demo_model()", ".numpy() > 0": ".numpy() > ranks.values.median().item()"}
"""The bundled model reads Python, and knows no fact: half of its answers are taken for right."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",  # as a kernel chooses, too late here: figures below their cells
    "EAGER_IMPORT": "1",  # to lazy_loader: the process that kernels are forked off has all of the package
}
"""Of kernels, and of the process that they are forked off."""
STORED = [path for path in NOTEBOOKS if ABSENT in path.read_text(encoding="utf-8").replace('\\"', '"')]
"""Those of a model that a checkout does not have."""


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def test_there_are_notebooks():
    assert NOTEBOOKS


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_stored_is_short_and_has_no_outputs(path):
    notebook = read(path)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in code_of(notebook):
        assert len(cell.source.splitlines()) < 15
        assert path in STORED or (not cell.outputs and cell.execution_count is None)
    lines = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    assert not [line for line in lines if "_" in line and line == line.upper()], "a place that waits for a sentence"


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_or_has_all_its_outputs_and_the_command_that_made_them(path):
    notebook = read(path)
    assert [cell.execution_count for cell in code_of(notebook)] == list(range(1, 1 + len(code_of(notebook))))
    assert f"jupyter execute --inplace tutorials/{path.name}" in notebook.cells[0].source
    check(notebook)
    assert STORED[0] == NOTEBOOKS[0], "readers come to it first"


def check(notebook):
    """No cell ended with an error, and what draws shows its figure."""
    for cell in code_of(notebook):
        assert not any(output.output_type == "error" for output in cell.outputs)
        if "ax = " in cell.source:
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


def test_the_tour_calls_every_public_function():
    [tour] = [path for path in NOTEBOOKS if "tour" in path.stem]
    code = "\n".join(cell.source for cell in read(tour).cells if cell.cell_type == "code")
    calls = [node.func for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    called = {call.attr for call in calls if isinstance(call, ast.Attribute)}
    functions = {name for name in tle.__all__ if inspect.isfunction(getattr(tle, name))}
    assert not functions - called


class Forked:
    """A kernel forked off a process that has loaded what notebooks load; as much of a ``Popen`` as its manager asks for."""

    stdin = stdout = stderr = None
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["transformer_lens.model_bridge", "ipykernel.kernelapp", "nbclient", "seaborn", "tl_entropy"])

    def __init__(self, command, env, cwd, **of_popen):
        self.process = self.forks.Process(target=self.run, args=(command[command.index("-f") :], env, cwd))
        self.process.start()
        self.pid = self.process.pid

    @staticmethod
    def run(arguments, env, cwd):
        from ipykernel.kernelapp import IPKernelApp

        os.environ.clear()
        os.environ.update(env)
        os.chdir(cwd)
        IPKernelApp.launch_instance(arguments)

    def poll(self):
        return self.process.exitcode

    def wait(self):
        self.process.join()
        return self.poll()

    def send_signal(self, number):
        os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        self.send_signal(signal.SIGTERM)


@pytest.mark.model
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_and_shows_its_figures(path, tmp_path, monkeypatch):
    monkeypatch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", Forked)
    monkeypatch.delattr("os.getpgid")  # a fork is of its parent's group, which outlives it
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = read(path)
    for cell in code_of(notebook):
        for absent, here in STAND_IN.items():
            cell.source = cell.source.replace(absent, here)
    NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    check(notebook)
    if (executed := os.environ.get("TL_ENTROPY_EXECUTED")) and path not in STORED:
        Path(executed).mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, Path(executed) / path.name)
