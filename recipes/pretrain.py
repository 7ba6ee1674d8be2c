"""Pre-trains a teacher (or any model of the family) from raw text.

    accelerate launch recipes/pretrain.py --config recipes/pretrain.yaml

Every argument of the YAML file can also be given on the command line, which takes precedence; --help lists them all.
`mobilebert-hf pretrain` does the same.
"""

from mobilebert_hf.distillation.pretrain import RECIPE_ARGUMENTS, pretrain
from mobilebert_hf.launch import launch

if __name__ == "__main__":
    launch(pretrain, RECIPE_ARGUMENTS)
