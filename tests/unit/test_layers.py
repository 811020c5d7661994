"""The shape of the package: which package may import which, sizes of classes and files, and wiring."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from pathlib import Path
from statistics import median

import splitft
from repository import ROOT

SOURCE = Path(splitft.__file__).parent
TESTS = ROOT / "tests"
# Each package, or file at the root, may import those to its right; server and client do not know each other.
LAW = (
    "launch > testing > tools > running > engines > round > server, client > proof > cuts > history > "
    "devices > data > weights > model > lora > wire > job > common > errors"
)
LAYERS = [layer.split(", ") for layer in LAW.split(" > ")]
HEIGHT = {name: -depth for depth, layer in enumerate(LAYERS) for name in layer}
MOST_FILES_WITH_JOB = 22  # they take it whole; a function that reads a few keys names their settings class
MOST_CLASS_LINES, MOST_PUBLIC_METHODS, MOST_FILE_LINES, MEDIAN_FILE_LINES = 200, 12, 350, 110
MOST_TEST_LINES = 400


def module_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_of(path): ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}


def package_of(module: str) -> str:
    return [*module.split("."), ""][1]


def imports(tree: ast.AST) -> set[str]:
    """Modules of the package that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "imports name the whole path"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in TREES else node.module for name in names}
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] == "splitft"}


IMPORTS = {module: imports(tree) for module, tree in TREES.items()}


def test_every_package_has_its_place_in_the_law() -> None:
    there = {package_of(module) for module in TREES} - {""}
    assert there == set(HEIGHT)


def test_names_at_the_root() -> None:
    names = [path.name for path in SOURCE.iterdir() if path.name not in ("__pycache__", "py.typed")]
    assert len(names) <= 21, names
    files = {name for name in names if name.endswith(".py")}
    assert files == {"__init__.py", "errors.py", "history.py", "round.py"}


def test_no_import_goes_up() -> None:
    up = []
    for module, imported in IMPORTS.items():
        here = package_of(module)
        if here == "":
            continue
        for other in imported:
            there = package_of(other)
            if there != here and HEIGHT.get(there, 1) >= HEIGHT[here]:
                up.append(f"{module} imports {other}")
    assert not up


def test_no_circle_of_files() -> None:
    assert not circles(IMPORTS)


def circles(edges: dict[str, set[str]]) -> set[str]:
    """Modules from which imports lead back to themselves."""
    reach = {module: set(imported) for module, imported in edges.items()}
    changed = True
    while changed:
        changed = False
        for known in reach.values():
            more = set().union(*(reach.get(other, set()) for other in known)) - known
            changed |= bool(more)
            known |= more
    return {module for module, known in reach.items() if module in known}


def test_a_circle_would_be_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {"a", "b", "c"}


def test_files_that_import_the_whole_job() -> None:
    names = {"splitft.job.Job", "splitft.job.model.Job"}
    files = [
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and names & {f"{node.module}.{alias.name}" for alias in node.names}
    ]
    assert len(set(files)) <= MOST_FILES_WITH_JOB, sorted(set(files))


def classes() -> list[tuple[str, ast.ClassDef]]:
    return [
        (m, node) for m, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]


def test_size_of_classes() -> None:
    wide = {}
    for module, node in classes():
        lines = (node.end_lineno or 0) - node.lineno + 1
        methods = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
        called = [item for item in methods if not is_property(item)]
        public = len([item for item in called if not item.name.startswith("_")])
        if lines > MOST_CLASS_LINES or public > MOST_PUBLIC_METHODS:
            wide[f"{module}.{node.name}"] = (lines, public)
    assert not wide


def is_property(method: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "property" for mark in method.decorator_list)


def test_no_class_name_stands_twice() -> None:
    homes = defaultdict(list)
    for module, node in classes():
        if not node.name.startswith("_"):
            homes[node.name].append(module)
    assert not {n: where for n, where in homes.items() if len(where) > 1}


def test_size_of_files() -> None:
    lines = {module_of(path): len(path.read_text().splitlines()) for path in SOURCE.rglob("*.py")}
    assert not {m: n for m, n in lines.items() if n > MOST_FILE_LINES}
    assert median(lines.values()) <= MEDIAN_FILE_LINES


def test_size_of_test_files() -> None:
    lines = {str(path.relative_to(TESTS)): len(path.read_text().splitlines()) for path in TESTS.rglob("*.py")}
    assert not {name: n for name, n in lines.items() if n > MOST_TEST_LINES}


def test_unit_tests_mirror_the_packages() -> None:
    folders = {path.name for path in (TESTS / "unit").iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders <= {*HEIGHT, "benchmarks"}


def test_no_name_of_a_test_file_stands_twice() -> None:
    """Folders of tests are no packages: pytest imports each file by its name alone."""
    everywhere = ("conftest.py", "__init__.py")
    names = Counter(path.name for path in TESTS.rglob("*.py") if path.name not in everywhere)
    assert not {name for name, count in names.items() if count > 1}


# Attributes of libraries' objects, which have no constructor argument for them.
OF_LIBRARIES = {
    "torch": {"grad", "training", "forward", "weight", "data", "gradient_checkpointing", "recompile_limit"},
    "torch.autograd.function": {"mask", "causal", "scale", "gradient", "sizes"},
    "transformers, peft": {
        "base_model_name_or_path", "inference_mode", "pre_tokenizer", "decoder", "HF_HUB_OFFLINE",
        "pad_token", "output_router_logits", "all_tied_weights_keys", "_keys_to_ignore_on_load_unexpected",
        "generation_config", "quantization_config",
    },
    "bitsandbytes, lm_eval": {"support_avx512bf16_for_cpu", "get_git_commit_hash"},
    "click": {"help"},
    "logging, ssl, sys": {"disabled", "minimum_version", "verify_mode", "verify_flags", "argv"},
}  # fmt: skip


def stores(node: ast.AST) -> list[ast.Attribute]:
    return [
        inner
        for inner in ast.walk(node)
        if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
    ]


def on_self(attribute: ast.Attribute) -> bool:
    return isinstance(attribute.value, ast.Name) and attribute.value.id in ("self", "cls")


def set_from_outside(tree: ast.AST) -> set[str]:
    """Attributes that a file sets on objects that are not its own: no class of it declares them."""
    own = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            own |= {attribute.attr for attribute in stores(node) if on_self(attribute)}
            own |= {
                item.target.id
                for item in node.body
                if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
            }
    return {attribute.attr for attribute in stores(tree) if not on_self(attribute)} - own


def test_objects_get_their_parts_from_their_constructor() -> None:
    foreign = set().union(*OF_LIBRARIES.values())
    found = {f"{m}.{name}" for m, tree in TREES.items() for name in set_from_outside(tree) - foreign}
    assert not found


def test_an_attribute_that_is_set_from_outside_would_be_found() -> None:
    text = "class A:\n    b: int = 0\n\ndef f(a, other):\n    a.b = 1\n    other.on_end, x = print, 2"
    assert set_from_outside(ast.parse(text)) == {"on_end"}
