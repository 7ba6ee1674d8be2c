"""Model code in a repository, for loading with `trust_remote_code=True` without this package."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from ..files import atomic_write_text
from ..models import modeling_folded, modeling_ib_bert
from ..pipelines import publish_code
from ..tasks.heads import HEADS

# Model types that transformers does not have. Students are stock `mobilebert`.
MODULES = {"ib_bert": (modeling_ib_bert, "IBBert"), "folded_mobilebert": (modeling_folded, "FoldedMobileBert")}


def add_remote_code(folder: Path) -> None:
    """Copies the code that a saved model needs to its folder, and adds `auto_map` to `config.json`.

    A student needs no model code. A student for question answering gets the code of the pipeline.

    Args:
        folder: Folder of a saved model.
    """
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if config["model_type"] in MODULES:
        module, prefix = MODULES[config["model_type"]]
        main = str(module.__file__)
        for source in (main, *get_relative_import_files(main)):
            shutil.copyfile(source, folder / Path(source).name)
        if register := getattr(module, "register_kernels", None):
            # The repository has no registration.py, so the module registers its kernels on import.
            with (folder / Path(main).name).open("a", encoding="utf-8") as code:
                code.write(f"\n\n{register.__name__}()\n")
        name = module.__name__.rpartition(".")[2]
        config_module = getattr(module, f"{prefix}Config").__module__.rpartition(".")[2]
        config["auto_map"] = {
            "AutoConfig": f"{config_module}.{prefix}Config",
            "AutoModel": f"{name}.{prefix}Model",
            **{f"AutoModel{head}": f"{name}.{prefix}{head}" for head in HEADS},
        }
        atomic_write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")
    elif (config.get("architectures") or [""])[0].endswith("ForQuestionAnswering"):
        publish_code(folder)
