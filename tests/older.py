"""transformers 4.57 beside this environment's newer one, for processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# What differs from this environment; the rest is shared.
OLDER = (
    "transformers==4.57.6",
    "huggingface_hub==0.36.0",
    "tokenizers==0.22.2",
    "requests",
    "urllib3",
    "idna",
    "certifi",
    "charset_normalizer",
)


def install_older(folder: Path, *more: str) -> dict[str, str]:
    """Installs `OLDER` and more into a folder; returns the environment variables of a process that uses it."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    installed = subprocess.run([*install, *OLDER, *more], capture_output=True, text=True)
    if "No matching distribution" in installed.stderr or "ConnectionError" in installed.stderr:
        pytest.skip(f"the package index has not all of {', '.join((*OLDER, *more))}")
    assert installed.returncode == 0, installed.stderr[-2000:]
    home = str(folder.with_name("home"))
    return {**os.environ, "PYTHONPATH": str(folder), "HF_HUB_OFFLINE": "1", "HF_HOME": home}
