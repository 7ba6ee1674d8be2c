"""Downloads the common model tests of the installed version of transformers from its source distribution.

The wheel has no tests and the repository cannot be reached everywhere, but the package index has the source
distribution, with `tests/test_modeling_common.py` in it. It is downloaded once into `.cache/`.
"""

import importlib
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import transformers
from filelock import FileLock

CACHE = Path(__file__).parents[2] / ".cache"


def fetch_tests() -> Path:
    """The folder `tests/` of the installed transformers' source distribution."""
    name = f"transformers-{transformers.__version__}"
    folder = CACHE / name / "tests"
    CACHE.mkdir(exist_ok=True)
    with FileLock(CACHE / f"{name}.lock"):  # several test processes download at the same time
        if not folder.is_dir():
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"]
            subprocess.run([*pip, "--dest", str(CACHE), name.replace("-", "==")], check=True)
            with tarfile.open(CACHE / f"{name}.tar.gz") as archive:
                members = [m for m in archive.getmembers() if m.name.startswith(f"{name}/tests/")]
                archive.extractall(CACHE, members=members, filter="data")
    return folder


def import_common_tests() -> types.ModuleType:
    """`tests/test_modeling_common.py` as a module.

    Two of the mixins it imports are in files the source distribution leaves out: those of generation, which no class
    here can do, and of export. They are empty here.
    """
    package = types.ModuleType("transformers_tests")
    package.__path__ = [str(fetch_tests())]
    sys.modules["transformers_tests"] = package
    for path, mixin in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        module = types.ModuleType(f"transformers_tests.{path}")
        setattr(module, mixin, type(mixin, (), {}))
        sys.modules[f"transformers_tests.{path.split('.')[0]}"] = types.ModuleType(path.split(".")[0])
        sys.modules[module.__name__] = module
    return importlib.import_module("transformers_tests.test_modeling_common")
