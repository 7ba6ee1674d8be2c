"""Fine-tunes an encoder on GLUE: one task or all, one setting or a grid, with a table at the end.

    accelerate launch recipes/glue.py --config recipes/glue.yaml --model ORG/MODEL

Any argument of the YAML file can be given on the command line too, and wins; --help lists them all.
"""

from mobilebert_hf.finetuning.glue import RECIPE_ARGUMENTS, finetune_glue
from mobilebert_hf.launch import launch

if __name__ == "__main__":
    launch(finetune_glue, RECIPE_ARGUMENTS)
