"""Pre-trains a teacher (or any network of the family) from raw text.

    accelerate launch recipes/pretrain_teacher.py --config recipes/pretrain_teacher.yaml

Any argument of the YAML file can be given on the command line too, and wins; --help lists them all.
"""

from mobilebert_hf.pretraining.run import RECIPE_ARGUMENTS, pretrain
from mobilebert_hf.recipe import launch

if __name__ == "__main__":
    launch(pretrain, RECIPE_ARGUMENTS)
