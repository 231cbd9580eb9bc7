"""The house: what may import what, what an import may cost, and what files may not do."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path, PurePosixPath

import pytest

import tl_entropy

ROOT = Path(tl_entropy.__file__).parent
parsed = cache(ast.parse)

# Floors, and the wings that every one of them may have. A file imports from lower floors, from its own floor's root, and from
# its own wing; on one floor the wing ``lens`` serves all others, and the wing ``models`` may use them all.
FLOORS = {
    "errors": 0,
    "torch_state": 0.5,  # the errors below it
    "sites": 0.7,
    "positions": 0.7,
    "state": 0.8,  # tensors and sites as plain values
    "batches": 1,
    "functional": 1,
    "results": 2,
    "labels": 2,
    "accumulators": 3,
    "capture": 4,
    "lenses": 5,
    "analyses": 6,
    "estimation": 6.5,  # models are trained on what is measured, and drawn by nobody
    "plots": 7,
    "demo": 7,
    "runs": 7.5,
    "cli": 8,
    "__init__": 9,
}
WINGS = {"lens", "heads", "information", "states", "profiles", "tokens", "models"}
WINGED = {"functional", "results", "analyses", "plots"}
BUILDS_MODELS = {f"estimation/{name}.py" for name in ("mixing", "blocks", "memory", "models")}
"""What builds TransformerLens models of its own, of TransformerLens's modules, and is reached through lazy names alone."""
ONLY_HERE = {  # a library, and the files or folders that may import it
    "transformer_lens": {"capture/loading", *BUILDS_MODELS},
    "transformers": {"capture/loading", "estimation/tokenizers.py", "demo/train.py"},
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


def place_of(module):
    """(floor, wing) of a dotted name below the package; the wing is "" at a floor's root."""
    floor, *rest = module.split(".")
    return floor, rest[0] if floor in WINGED and rest and rest[0] in WINGS else ""


def may_import(mine, other):
    (floor, wing), (other_floor, other_wing) = mine, other
    if floor != other_floor:
        return FLOORS[other_floor] < FLOORS[floor]
    return other_wing in ("", wing) or (wing != "" and other_wing == "lens") or wing == "models"


def violations(path, source):
    part, relative = part_of(path), path.relative_to(ROOT).as_posix()
    mine = place_of(relative.removesuffix(".py").replace("/", "."))
    for module, at_top in imports(parsed(source), typing_too=True):
        head, *rest = module.split(".")
        inside = head == "tl_entropy" and rest and rest[0] in FLOORS
        gathers = path.name == "__init__.py" and rest[:1] == [part]  # a floor's public names
        if inside and not gathers and not may_import(mine, place_of(".".join(rest))):
            yield f"{relative} imports {module}, which is not below it"
        here = {part, relative, *(folder.as_posix() for folder in PurePosixPath(relative).parents)}
        if head in ONLY_HERE and not here & ONLY_HERE[head]:
            yield f"{relative} imports {module}"
        if head == "transformer_lens" and at_top and relative not in BUILDS_MODELS:
            yield f"{relative} imports transformer_lens at module level"


def test_imports_go_downwards():
    lost = [path for path in files() if part_of(path) not in FLOORS]
    assert lost == [], "these are on no floor: add them to FLOORS and to the picture of the house"
    assert [line for path in files() for line in violations(path, path.read_text())] == []


def module_of(path):
    return ".".join(("tl_entropy", *path.relative_to(ROOT).with_suffix("").parts))


def circles(arrows):
    """Modules that import each other, directly or on a detour; each as the way around."""
    done, found = set(), []

    def walk(module, way):
        if module in way:
            found.append(way[way.index(module) :])
        elif module not in done:
            for other in sorted(arrows.get(module, ())):
                walk(other, [*way, module])
            done.add(module)

    for module in sorted(arrows):
        walk(module, [])
    return found


def arrows_of(sources):
    """Every module's imports inside the package; a name taken from a package counts as an import of the module behind it."""
    arrows = {}
    for module, source in sources.items():
        arrows[module] = set()
        for node in ast.walk(parsed(source)):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [f"{node.module}.{alias.name}" for alias in node.names] + [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            arrows[module] |= {name for name in names if name in sources and name != module}
    return arrows


def test_no_modules_import_each_other():
    sources = {module_of(path): path.read_text() for path in files() if path.name != "__init__.py"}
    arrows = arrows_of(sources)
    assert sum(map(len, arrows.values())) > 300, "this test sees the imports"
    assert circles(arrows) == []
    lower, upper = "tl_entropy.results.base", "tl_entropy.results.loading"
    sources[lower] += f"\ndef f():\n    from {upper} import load\n"
    assert [{lower, upper}] == [set(way) for way in circles(arrows_of(sources))]


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("functional/lens/entropies.py", "from tl_entropy.capture import adapter"),
        ("results/base.py", "from tl_entropy import plots"),
        ("capture/loading/bridges.py", "import transformer_lens"),
        ("capture/runner.py", "def f():\n    import transformer_lens"),
        ("analyses/lens/entropy.py", "def f():\n    import transformer_lens"),
        ("results/base.py", "import pickle"),
        ("estimation/config.py", "import transformer_lens"),
        ("analyses/lens/entropy.py", "from tl_entropy.estimation.config import EstimationConfig"),
    ],
)
def test_this_test_can_fail(path, line):
    assert list(violations(ROOT / path, line))


def test_wings_may_use_their_root_the_lens_and_models_all():
    for path, line in (
        ("analyses/tokens/rows.py", "from tl_entropy.analyses.rows import Rows"),
        ("analyses/tokens/rows.py", "from tl_entropy.analyses.lens.reading import Reading"),
        ("analyses/models/comparison.py", "from tl_entropy.analyses.states.cka import CKAAccumulator"),
        ("plots/__init__.py", "from tl_entropy.plots.heads.maps import heads"),
        ("plots/heads/maps.py", "from tl_entropy.results.tokens.rows import TokenRows"),
    ):
        assert not list(violations(ROOT / path, line)), (path, line)


def test_files_open_with_a_docstring_and_stay_short():
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in files()}
    assert [name for name, source in sources.items() if not ast.get_docstring(parsed(source))] == []
    assert [name for name, source in sources.items() if len(source.splitlines()) > 400] == []


def test_the_package_uses_no_assert():
    for path in files():
        assert not [node for node in ast.walk(parsed(path.read_text())) if isinstance(node, ast.Assert)], path


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


def test_the_configuration_of_a_model_is_made_without_torch():
    loaded = loaded_by("import tl_entropy; tl_entropy.EstimationConfig(kind='memory', numbers=4)")
    assert "tl_entropy.estimation.config" in loaded, "this test sees what is imported"
    assert not {"torch", "transformer_lens"} & loaded


def test_public_names_exist():
    for name in tl_entropy.__all__:
        assert getattr(tl_entropy, name) is not None
    with pytest.raises(AttributeError, match="attribute nonsense"):
        tl_entropy.nonsense  # noqa: B018
