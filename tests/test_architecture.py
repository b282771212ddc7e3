"""The layout keeps its promises: imports point upward, heavy packages load late, nothing is unpickled."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "memberscope"

# A module imports only what stands above it (DESIGN.md, with the small modules that everything uses on top).
_LINES = (
    "errors text files large progress checks types data models training targets signals attacks statistics analysis",
    "outputs defences auditing report exports config run_folder work run study doors guard cli __main__",
)
ORDER = " ".join(_LINES).split()

# PyTorch only here; attacks, statistics, analyses, report and command work without it.
TORCH = {"models", "training", "targets", "signals", "defences", "analysis/gradcam.py"}


def imported(path: Path) -> list[tuple[str, bool]]:
    """Absolute module names that a file imports, and whether at module level."""
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.append((node.module or "", id(node) in top))
    return found


FILES = sorted(SOURCE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_upward(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return
    assert own in ORDER, f"{own} has no place in the order of modules"
    for name, _ in imported(path):
        parts = name.split(".")
        if parts[0] == "memberscope" and len(parts) > 1:
            assert ORDER.index(parts[1]) <= ORDER.index(own), f"{path.name} imports {name}, which stands below {own}"
        if parts[0] in ("torch", "safetensors", "opacus", "captum"):
            place = path.relative_to(SOURCE).as_posix()
            assert own in TORCH or place in TORCH, f"{path.name} imports {name}"


def test_order_is_checked_at_all() -> None:
    names = {name for path in FILES for name, _ in imported(path)}
    assert "memberscope.types" in names and "torch" in names


@pytest.mark.parametrize("statement", ["import memberscope", "import memberscope.run", "from memberscope import load"])
def test_importing_is_cheap(statement: str) -> None:
    heavy = ("torch", "sklearn", "matplotlib", "pyarrow")
    code = f"{statement}\nimport sys\nprint([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom memberscope.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('numpy', 'scipy', 'pydantic', 'torch', 'sklearn') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "audit" in done.stdout


FORBIDDEN = {
    "pickle": "nothing is ever unpickled",
    "dill": "nothing is ever unpickled",
    "cloudpickle": "nothing is ever unpickled",
    "shelve": "nothing is ever unpickled",
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_unsafe_loading_and_no_global_random_state(path: Path) -> None:
    text = path.read_text()
    for name, _ in imported(path):
        assert name.split(".")[0] not in FORBIDDEN, FORBIDDEN.get(name.split(".")[0])
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("eval", "exec", "yaml.load", "joblib.load"), f"{path}: {called}"
            if called == "torch.load":
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert keywords.get("weights_only") == "True", f"{path}: torch.load without weights_only=True"
            if called in ("np.load", "numpy.load"):
                keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert keywords.get("allow_pickle") == "False", f"{path}: np.load without allow_pickle=False"
            if called.startswith("np.random."):
                maker = called.split(".")[2].split("(")[0]
                assert maker in ("default_rng", "SeedSequence", "Generator"), f"{path}: {called}"
