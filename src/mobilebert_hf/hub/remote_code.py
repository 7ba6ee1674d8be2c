"""The code that a repository carries for those who have transformers but not this package."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from ..files import atomic_write_text
from ..models import modeling_folded, modeling_ib_bert
from ..pipelines import publish_code
from ..tasks.heads import HEADS

# Networks that transformers does not have; students are stock's.
MODULES = {"ib_bert": (modeling_ib_bert, "IBBert"), "folded_mobilebert": (modeling_folded, "FoldedMobileBert")}


def add_remote_code(folder: Path) -> None:
    """Puts the code beside a saved model that it needs elsewhere, and names it in `config.json`.

    A student gets none, for transformers has its network, but the pipeline for question answering.

    Args:
        folder: Of a saved model.
    """
    path = folder / "config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if config["model_type"] in MODULES:
        module, prefix = MODULES[config["model_type"]]
        main = str(module.__file__)
        for source in (main, *get_relative_import_files(main)):
            shutil.copyfile(source, folder / Path(source).name)
        if register := getattr(module, "register_kernels", None):
            # There is no registration.py: loading the code registers.
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
    elif config.get("architectures", [""])[0].endswith("ForQuestionAnswering"):
        publish_code(folder)
