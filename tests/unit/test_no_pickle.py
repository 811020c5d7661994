"""Nothing that a peer or a file can reach may run code: no call in the sources is one that could."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from repository import ROOT

SOURCES = [*sorted((ROOT / "src").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]

MODULES = {
    "pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "copyreg",
    "jsonpickle", "pickletools", "imp", "runpy", "code", "codeop",
}  # fmt: skip
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Wherever the name before the dot comes from: torch.load, np.load, importlib.import_module, ...
CALLS = {
    "torch": {"load", "save", "hub"}, "np": {"load", "fromfile"}, "numpy": {"load", "fromfile"},
    "yaml": {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load", "full_load_all"},
    "importlib": {"import_module", "__import__"}, "builtins": BUILTINS, "os": {"system", "popen"},
    "pd": {"read_pickle"}, "pandas": {"read_pickle"},
    "subprocess": {"getoutput", "getstatusoutput"},
}  # fmt: skip
FLAGS = {"trust_remote_code", "allow_pickle", "shell"}  # may be given as False alone
UNSAFE_LOADERS = {"Loader", "UnsafeLoader", "FullLoader", "CLoader", "CUnsafeLoader", "CFullLoader"}

# {file: {what is found there: why it is no danger}}
ALLOWED = {
    "src/splitft/__init__.py": {"import_module": "lazy exports: names from a table in the same file"},
    "src/splitft/common/plugins.py": {
        "import_module": "a plugin that a person names on the command line; never a job's or a peer's",
        "importlib.import_module": "the same",
    },
    "src/splitft/running/trackers/tracker.py": {
        "import_module": "libraries of trackers: names from a table in the same package"
    },
    "benchmarks/naive.py": {
        "torch.load": "the naive loop that others are measured against reads its own bytes",
        "torch.save": "the same",
    },
}


def dangers(source: str) -> Iterator[str]:
    """Yield what could run code, or could load what does, by the name that it is called by."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names if alias.name.partition(".")[0] in MODULES)
            case ast.ImportFrom(module=str(module), names=names):
                top = module.partition(".")[0]
                if top in MODULES:
                    yield module
                yield from (alias.name for alias in names if alias.name in CALLS.get(top, ()))
                yield from (alias.name for alias in names if top == "yaml" and alias.name in UNSAFE_LOADERS)
            case ast.Call(func=func, keywords=keywords):
                if isinstance(func, ast.Name) and func.id in BUILTINS:
                    yield func.id
                for keyword in keywords:
                    if keyword.arg in FLAGS and ast.unparse(keyword.value) != "False":
                        yield keyword.arg
            case ast.Attribute(value=ast.Name(id=name), attr=attribute):
                if attribute in CALLS.get(name, ()) or (name == "yaml" and attribute in UNSAFE_LOADERS):
                    yield f"{name}.{attribute}"
                if attribute in ("read_pickle", "import_module"):
                    yield attribute


def test_no_source_can_run_what_it_reads() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in SOURCES
        if (names := set(dangers(path.read_text(encoding="utf-8"))))
    }
    assert found == {path: set(reasons) for path, reasons in ALLOWED.items()}
    assert len(SOURCES) > 100


@pytest.mark.parametrize("source", [
    "import pickle", "import pickle as p", "from pickle import loads", "import dill.session", "import joblib",
    "from torch import load", "torch.load(path)", "torch.load(path, weights_only=True)", "f = torch.load",
    "torch.save(x, path)", "np.load(path)", "np.load(path, allow_pickle=True)", "numpy.load(path)",
    "read(path, allow_pickle=flag)", "eval('1')", "exec(text)", "compile(text, '', 'exec')",
    "__import__(name)",
    "yaml.load(text)", "yaml.load(text, Loader=yaml.Loader)", "from yaml import UnsafeLoader",
    "AutoModel.from_pretrained(x, trust_remote_code=True)", "f(trust_remote_code=job.trust)",
    "importlib.import_module(name)", "from importlib import import_module", "subprocess.run(x, shell=True)",
    "os.system(x)", "pd.read_pickle(path)", "marshal.loads(x)\nimport marshal", "builtins.eval(x)",
])  # fmt: skip
def test_the_search_finds(source: str) -> None:
    assert list(dangers(source))


@pytest.mark.parametrize("source", [
    "re.compile(x)", "model.eval()", "torch.compile(m)", "safetensors.torch.load(x)", "json.load(x)",
    "f(trust_remote_code=False)", "yaml.safe_load(x)", "subprocess.run([x], shell=False)", "load(x)",
])  # fmt: skip
def test_the_search_lets_pass(source: str) -> None:
    assert not list(dangers(source))
