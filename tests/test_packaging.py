"""The package as a thing to install: imports point up, one list of requirements, nothing heavy before it is needed."""

import ast
import configparser
import inspect
import re
import subprocess
import sys
import time
import tomllib

import pytest
from conftest import ROOT

import kerasllm

# The house: what each room imports. Through these it may also import what they import, and nothing else of ours.
ROOMS = {
    "garbage": [],
    "backend": ["garbage"],
    "files": [],
    "progress": [],
    "statistics": [],
    "words": [],
    "energy": [],
    "extras": [],
    "storage": ["extras", "files"],
    "unread": [],
    "layers": ["backend", "words"],
    "distribution": ["backend"],
    "vocabulary": ["backend"],
    "losses": ["vocabulary"],
    "metrics": ["losses"],
    "optimizers": ["backend"],
    "privacy": ["extras", "files", "optimizers"],
    "training": ["layers", "losses", "metrics", "optimizers", "words"],
    "vision": ["layers"],
    "models": ["layers", "training", "vision"],
    "quantization": ["layers"],
    "tasks": [],
    "tensor_files": ["backend", "files"],
    "tokenizers": ["files", "progress"],
    "images": ["extras", "files", "tokenizers"],
    "data": ["backend", "images", "storage", "tokenizers", "words"],
    "preparation": ["data"],
    "generation": ["extras", "images", "models", "tasks", "tokenizers"],
    "evaluation": ["data", "generation", "statistics"],
    "dialogue": ["data", "extras", "generation"],
    "reinforcement": ["data", "extras", "files", "generation"],
    "safety": ["data", "generation", "statistics"],
    "interpret": ["evaluation", "images"],
    "callbacks": ["evaluation", "runs"],
    "export": ["data", "extras", "files", "generation", "images", "tokenizers"],
    "huggingface": ["files", "generation", "images", "models", "quantization", "tokenizers"],
    "keras_hub": ["models"],
    "gguf": ["extras", "huggingface"],
    "adapters": ["huggingface"],
    "bases": ["huggingface"],
    "runs": ["bases", "gguf", "tensor_files", "unread"],
    "report": [],
    "audits": ["interpret", "safety", "settings"],
    "settings": ["files", "tasks", "words"],
    "planning": ["adapters", "files", "models", "settings", "statistics", "training", "words"],
    "recipe": ["callbacks", "energy", "planning", "privacy", "report", "runs", "settings", "training"],
    "selection": ["evaluation", "generation", "recipe"],
    "benchmark": ["callbacks", "data", "evaluation", "export", "runs"],
    "serving": ["dialogue", "extras", "generation", "images", "runs"],
    "cli": [
        *("audits", "benchmark", "distribution", "interpret", "preparation", "recipe", "safety", "selection"),
        "serving",
    ],
}
# These must also import where JAX is installed and TensorFlow is not.
WITHOUT_TENSORFLOW = {
    *(
        "distribution",
        "tasks",
        "layers",
        "vocabulary",
        "losses",
        "metrics",
        "optimizers",
        "training",
        "vision",
        "models",
        "quantization",
    ),
}
FILES = sorted((ROOT / "kerasllm").rglob("*.py"))
ROOM_FILES = [path for path in FILES if path.parent != ROOT / "kerasllm" or path.stem in ROOMS]


def imported_modules(path):
    """The dotted names that a file imports anywhere, functions included; in tasks/ those of its head alone.

    A task names things of every room, and every room asks for its tasks: so it imports none of them before it is used.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body if path.parent.name == "tasks" else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path):
    return path.relative_to(ROOT / "kerasllm").parts[0].removesuffix(".py")


def above(room):
    """All rooms that a room may import."""
    return set(ROOMS[room]).union(*map(above, ROOMS[room]))


@pytest.mark.parametrize("path", ROOM_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_up(path):
    room = room_of(path)
    for name in imported_modules(path):
        package, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if package == "kerasllm" and target in ROOMS:
            assert target in {room, *above(room)}, f"{path} imports {name}"
        if room in WITHOUT_TENSORFLOW:
            assert package not in {"tensorflow", "keras_nlp", "keras_hub"}, f"{path} imports {name}"


def test_every_room_has_its_place():
    assert {room_of(path) for path in FILES} - {"__init__", "__main__"} <= ROOMS.keys()


def test_no_module_bears_the_name_of_an_exported_function():
    """`kerasllm.evaluation.perplexity` the function would turn into the module after the module's first import."""
    for init in FILES:
        if init.name == "__init__.py":
            modules = {path.stem for path in init.parent.glob("*.py")} | {p.name for p in init.parent.iterdir()}
            for node in ast.parse(init.read_text(encoding="utf-8")).body:
                if isinstance(node, ast.ImportFrom) and init.parent != ROOT / "kerasllm":
                    clashes = {alias.asname or alias.name for alias in node.names} & modules
                    assert not clashes, f"{init} exports {clashes}, the name of a module"


@pytest.mark.parametrize("name", [None, *kerasllm._MODULES])
def test_completion_shows_what_is_ours_alone(name):
    module = getattr(kerasllm, name) if name else kerasllm
    for attribute in dir(module):
        value = getattr(module, attribute)
        if not attribute.startswith("_") and not isinstance(value, str | int | tuple | dict):
            home = value.__name__ if inspect.ismodule(value) else value.__module__
            assert home.split(".")[0] == "kerasllm", f"{module.__name__}.{attribute} is {home}'s"
    assert set(getattr(module, "__all__", ())) <= set(dir(module))


def test_versions_and_requirements_have_one_home():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["metadata"]["version"] == "attr: kerasllm.__version__"
    assert setup["options"]["install_requires"] == "file: requirements.txt"
    assert re.fullmatch(r"\d+\.\d+\.\d+", kerasllm.__version__)

    pinned = setup["options"]["python_requires"].removeprefix(">=")
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert ruff["target-version"] == "py" + pinned.replace(".", "")

    lines = (ROOT / "requirements.txt").read_text().splitlines()
    requirements = [line for line in lines if line and not line.startswith("#")]
    extras = "\n".join(setup["options.extras_require"].values()).split()
    for requirement in requirements + extras:
        assert re.fullmatch(r"[\w-]+(\[\w+\])?>=[\d.]+", requirement), f"{requirement} has no tested lower bound"
    bounds = {}
    for requirement in requirements + extras:
        name, _, bound = requirement.partition(">=")
        assert bounds.setdefault(name.lower(), bound) == bound, f"{name} has two lower bounds"


def test_data_goes_into_the_wheel():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    packed = {
        path
        for package, patterns in setup["options.package_data"].items()
        for pattern in patterns.split()
        for path in (ROOT / package.replace(".", "/")).glob(pattern)
    }
    files = {path for path in (ROOT / "kerasllm").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert packed == {path for path in files if path.suffix != ".py"}


def test_what_the_package_imports_is_required():
    listed = (ROOT / "requirements.txt").read_text().lower().replace("-", "_")
    distributions = {"yaml": "pyyaml"}
    # Another backend, what is measured against, and what reads some files.
    optional = {"jax", "torch", "transformers", "peft", "trl", "pyarrow", "zstandard", "gguf", "xllamacpp", "bm25s"}
    optional |= {"ai_edge_litert", "litert_lm", "litert_lm_builder", "litert_quantizer", "tf2onnx"}
    optional |= {"outlines_core", "llguidance", "fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client"}
    optional |= {"codecarbon", "lm_eval", "tensorboard", "mlflow", "wandb", "apache_beam", "PIL", "av", "py3langid"}
    for path in FILES:
        for name in imported_modules(path):
            package = name.split(".")[0]
            if package not in sys.stdlib_module_names and package != "kerasllm" and package not in optional:
                assert distributions.get(package, package).lower() in listed, f"{path} imports {package}"


@pytest.mark.parametrize("arguments", [[], ["train"], ["generate"], ["chat"], ["convert"]])
def test_help_answers_at_once(arguments):
    start = time.perf_counter()
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "kerasllm", *arguments, "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage: kerasllm" in shown.stdout
    assert time.perf_counter() - start < 5
    loaded = {line.split("|")[-1].strip() for line in shown.stderr.splitlines()}
    assert "kerasllm.cli.arguments" in loaded
    assert not loaded & {"keras", "tensorflow", "numpy", "jax", "matplotlib"}
