"""Fine-tunes an encoder on GLUE or SQuAD; `--task` chooses.

    accelerate launch recipes/finetune.py --config recipes/finetune_glue.yaml --model ID_OR_FOLDER --task cola rte
    accelerate launch recipes/finetune.py --config recipes/finetune_squad.yaml --model ID_OR_FOLDER

Every argument of the YAML file can also be given on the command line, which takes precedence; `--task squad --help`
and `--task cola --help` list them all. `mobilebert-hf finetune` does the same.
"""

from mobilebert_hf.finetuning.run import argument_classes, finetune
from mobilebert_hf.launch import launch

if __name__ == "__main__":
    launch(finetune, argument_classes)
