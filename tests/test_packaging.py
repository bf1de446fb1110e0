"""What the distribution promises: its name, its files, and that it declares whatever it imports."""

import ast
import re
import sys
import tomllib
from importlib import resources
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CALLED = {"yaml": "pyyaml", "jinja2": "jinja2", "lm_eval": "lm-eval"}  # import name -> distribution


def required(lines):
    return {re.split(r"[^\w.-]", line)[0].lower().replace("_", "-") for line in lines}


def imported():
    """Third-party packages that the source imports, and where."""
    found = {}
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in names:
                top = name.split(".")[0]
                if top not in sys.stdlib_module_names and top != "holdfast":
                    found.setdefault(CALLED.get(top, top).lower().replace("_", "-"), path.name)
    return found


def test_the_distribution_is_ours_and_the_command_keeps_its_name():
    assert PROJECT["project"]["name"] == "holdfast-llm"
    assert PROJECT["project"]["scripts"] == {"holdfast": "holdfast.cli:main"}


def test_one_place_says_the_version():
    import holdfast
    from holdfast.core.version import DISTRIBUTION, VERSION, versions

    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "holdfast.core.version.VERSION"}
    assert holdfast.__version__ == VERSION == versions(["holdfast"])["holdfast"]
    assert PROJECT["project"]["name"] == DISTRIBUTION


def test_everything_that_is_imported_is_declared():
    extras = PROJECT["project"]["optional-dependencies"]
    declared = required(PROJECT["project"]["dependencies"]) | required(extras["eval"]) | required(extras["gguf"])
    assert {name: file for name, file in imported().items() if name not in declared} == {}


@pytest.mark.parametrize("pattern", PROJECT["tool"]["setuptools"]["package-data"]["holdfast"])
def test_every_promised_kind_of_data_file_is_there(pattern):
    package = Path(str(resources.files("holdfast")))
    assert [path for path in package.glob(pattern) if path.is_file()]


def test_no_data_file_is_left_out_of_the_wheel():
    package = Path(str(resources.files("holdfast")))
    promised = {
        path for p in PROJECT["tool"]["setuptools"]["package-data"]["holdfast"] for path in package.glob(p)
    }
    files = {path for path in package.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert sorted(files - promised) == []
