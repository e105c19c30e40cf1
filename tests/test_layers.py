"""Who may know whom: the imports of every module, read from the source, against the house's rule."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

# Lowest first. A module may import rooms of lower layers, its own room, and those of its own layer named in BESIDE.
LAYERS = [
    {"errors", "fields", "bag", "cores", "cluster", "freed_memory"},
    {"types", "task"},
    {"predictions"},
    {"data", "nn", "losses", "metrics", "slides"},
    {"models", "pixel"},
    {"train", "testing", "foreign_weights", "explain", "encoders"},
    {"check", "config", "embed", "monte_carlo", "search", "track", "watch"},
    {"experiment"},
    {"execute"},
    {"report"},
    {"keep"},
    {"api", "demo"},
    {"stages", "heatmaps"},
    {"viewer"},
    {"commands"},
    {"cli"},
    {"__main__", "__init__"},
]
LAYER = {room: i for i, rooms in enumerate(LAYERS) for room in rooms}
# What a room may never import, however low: maths knows no files, reading knows no JAX.
NEVER = {
    "metrics": {"data", "nn", "models", "losses", "jax"},
    "losses": {"data", "nn", "models", "metrics"},
    "nn": {"data", "losses", "metrics", "predictions"},
    "models": {"data", "losses", "metrics", "predictions"},
    "pixel": {"data", "losses", "metrics", "predictions"},
    "data": {"nn", "models", "losses", "metrics", "jax"},
    "encoders": {"losses", "metrics", "predictions", "train"},
    "embed": {"nn", "models", "pixel", "losses", "metrics", "train", "testing", "explain"},
    "predictions": {"jax"},
    "slides": {"nn", "models", "losses", "metrics", "jax"},
    "check": {"nn", "models", "losses", "metrics", "train", "testing", "jax"},
    "report": {"train", "models", "nn", "execute", "jax"},
}

# What a room may import of one that it may not know: a loss that is no task's, which a model's own objective may use.
EXCEPT = {("models", "milkit.losses.svm")}


def modules(root: Path) -> list[Path]:
    return sorted((root / "milkit").rglob("*.py"))


def room(path: Path, root: Path) -> str:
    return path.relative_to(root / "milkit").parts[0].removesuffix(".py")


def imports(path: Path):
    """(imported module, whether at the top of the file) of every import, those under TYPE_CHECKING left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            # `from milkit import config` imports a room, `from milkit.task import Task` a name of one
            names = [f"milkit.{a.name}" for a in node.names] if node.module == "milkit" else [node.module]
        for name in names:
            yield name, node in tree.body


def test_every_room_has_a_layer(root):
    assert {room(p, root) for p in modules(root)} <= LAYER.keys()


def test_no_room_knows_one_above_it(root):
    wrong = []
    for path in modules(root):
        own = room(path, root)
        for name, _ in imports(path):
            if not name.startswith("milkit.") or own == "__init__":
                continue
            other = name.split(".")[1]
            if other not in LAYER:
                continue  # a name of milkit/__init__.py, such as __version__
            if (own, name) in EXCEPT:
                continue
            if LAYER[other] > LAYER[own] or (other != own and other in NEVER.get(own, ())):
                wrong.append(f"{path.relative_to(root)} imports {name}")
    assert not wrong


def test_rooms_without_jax(root):
    wrong = [
        f"{path.relative_to(root)} imports {name}"
        for path in modules(root)
        for name, top in imports(path)
        if top and name.split(".")[0] in ("jax", "flax", "optax") and "jax" in NEVER.get(room(path, root), ())
    ]
    assert not wrong


def test_lazy_packages_are_never_imported_at_the_top_of_a_file(root):
    lazy = {"wandb", "tiffslide", "openslide", "tifffile", "imagecodecs", "matplotlib", "torch", "pandas", "sklearn"}
    lazy |= {"onnxruntime", "lifelines", "optuna", "openpyxl"}
    only = {"tyro": {"commands"}, "rich": {"watch", "commands"}}
    wrong = []
    for path in modules(root):
        for name, top in imports(path):
            package = name.split(".")[0]
            if (package in lazy and top) or (package in only and room(path, root) not in only[package]):
                wrong.append(f"{path.relative_to(root)} imports {name}")
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("module", ["milkit.train.engine", "milkit.train.fit", "milkit.models", "milkit.execute.run"])
def test_the_engine_imports_without_the_luxuries(module):
    code = f"import sys, {module}; print([m for m in ('wandb', 'tyro', 'tiffslide', 'matplotlib') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_reading_data_needs_no_jax():
    rooms = "milkit.data.study, milkit.data.cohort, milkit.metrics, milkit.predictions"
    code = f"import sys, {rooms}; print('jax' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_no_pickle_anywhere(root):
    for path in modules(root):
        assert not {n for n, _ in imports(path)} & {"pickle", "cloudpickle", "dill", "joblib"}, path
        assert "allow_pickle=True" not in path.read_text(), path
