"""Fine-tunes an encoder on SQuAD v1.1 or v2.0, and writes answers and scores in the official files.

    accelerate launch recipes/squad.py --config recipes/squad.yaml --model ORG/MODEL

Any argument of the YAML file can be given on the command line too, and wins; --help lists them all.
"""

from mobilebert_hf.finetuning.squad import RECIPE_ARGUMENTS, finetune_squad
from mobilebert_hf.launch import launch

if __name__ == "__main__":
    launch(finetune_squad, RECIPE_ARGUMENTS)
