"""The house: what may import what, what an import may cost, and what files may not do."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tl_entropy

ROOT = Path(tl_entropy.__file__).parent

# A file imports only from levels below its own, or from its own folder.
LEVELS = {
    "errors": 0,
    "sites": 1,
    "functional": 1,
    "results": 2,
    "labels": 2,
    "accumulators": 3,
    "capture": 4,
    "lenses": 5,
    "analyses": 6,
    "plots": 7,
    "demo": 7,
    "cli": 8,
    "__init__": 9,
}
ONLY_HERE = {  # a library, and the files or folders that may import it
    "transformer_lens": {"capture/loading.py"},
    "transformers": {"capture/loading.py", "demo/train.py"},
    "matplotlib": {"plots", "cli"},
    "seaborn": {"plots"},
    "pickle": set(),
}


def files():
    return sorted(path for path in ROOT.rglob("*.py"))


def part_of(path):
    relative = path.relative_to(ROOT)
    return relative.parts[0].removesuffix(".py")


def imports(tree, *, typing_too=False):
    """(module, is_at_module_level) of every import in a syntax tree; those for type checking only are left out."""
    found = []

    def walk(node, top):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test) and not typing_too:
                continue
            if isinstance(child, ast.Import):
                found.extend((alias.name, top) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                found.append((child.module or "", top))
                if child.module == "tl_entropy":
                    found.extend((f"tl_entropy.{alias.name}", top) for alias in child.names)
            walk(child, top and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))

    walk(tree, True)
    return found


def violations(path, source):
    part, relative = part_of(path), path.relative_to(ROOT).as_posix()
    for module, at_top in imports(ast.parse(source)):
        head, *rest = module.split(".")
        if head == "tl_entropy" and rest:
            other = rest[0]
            if other in LEVELS and other != part and LEVELS[other] >= LEVELS[part]:
                yield f"{relative} (level {LEVELS[part]}) imports {module} (level {LEVELS[other]})"
        if head in ONLY_HERE and not {relative, part} & ONLY_HERE[head]:
            yield f"{relative} imports {module}"
        if head == "transformer_lens" and at_top:
            yield f"{relative} imports transformer_lens at module level"


@pytest.mark.parametrize("path", files(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_downwards(path):
    assert part_of(path) in LEVELS, f"{path.name} has no level: add it to LEVELS and to the README's picture"
    assert list(violations(path, path.read_text())) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("functional/entropies.py", "from tl_entropy.capture import adapter"),
        ("results/base.py", "from tl_entropy import plots"),
        ("capture/loading.py", "import transformer_lens"),
        ("analyses/lens.py", "def f():\n    import transformer_lens"),
        ("results/base.py", "import pickle"),
    ],
)
def test_this_test_can_fail(path, line):
    assert list(violations(ROOT / path, line))


@pytest.mark.parametrize("path", files(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_files_open_with_a_docstring_and_stay_short(path):
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source))
    assert len(source.splitlines()) <= 400


def test_the_package_uses_no_assert():
    for path in files():
        assert not [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Assert)], path


def loaded_by(statement):
    code = f"import sys; {statement}; print(*sorted(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_is_light():
    loaded = loaded_by("import tl_entropy; dir(tl_entropy)")
    assert not {"torch", "matplotlib", "transformer_lens", "transformers", "pandas"} & loaded


def test_analyses_pull_in_no_plots_and_no_transformer_lens():
    loaded = loaded_by("import tl_entropy; tl_entropy.lens_entropy")
    assert "torch" in loaded, "this test sees what is imported"
    assert not {"matplotlib", "seaborn", "transformer_lens"} & loaded


def test_public_names_exist():
    for name in tl_entropy.__all__:
        assert getattr(tl_entropy, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tl_entropy.nonsense  # noqa: B018
