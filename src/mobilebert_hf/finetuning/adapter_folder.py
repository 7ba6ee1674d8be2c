"""`adapter/` of a run: the PEFT adapter by itself, with what is needed to load it on its base model."""

from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ..files import atomic_write_text
from ..runs.facts import hub_id
from ..tasks.heads import TASKS

README = """# Adapter

The adapter, the head and the other weights that were trained, by PEFT. The configuration says which labels the head
has. The merged model is in the folder above.

```python
from peft import PeftModel
from transformers import AutoConfig, {auto_class}

config = AutoConfig.from_pretrained("adapter")
base = {auto_class}.from_pretrained("{base}", config=config)
model = PeftModel.from_pretrained(base, "adapter")
```
"""


def merge_adapter(model: nn.Module, folder: Path) -> PreTrainedModel:
    """Saves the adapter to `folder/adapter` and merges it; a model without an adapter is returned as it is."""
    adapted: Any = model
    if not hasattr(model, "merge_and_unload"):
        return adapted
    from peft.utils import ModulesToSaveWrapper

    [adapter] = adapted.peft_config.values()
    name = adapter.base_model_name_or_path or ""
    base = adapter.base_model_name_or_path = hub_id(name) or str(Path(name).resolve())
    adapted.save_pretrained(folder / "adapter")
    adapted.get_base_model().config.save_pretrained(folder / "adapter")
    atomic_write_text(
        folder / "adapter" / "README.md", README.format(auto_class=_auto_class(adapter.task_type), base=base)
    )
    merged = adapted.merge_and_unload()
    for name, module in list(merged.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # some tuners do not unwrap the head
            merged.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
    return merged


def _auto_class(task_type: str) -> str:
    return next(task.auto_class for task in TASKS.values() if task.adapter == task_type)
