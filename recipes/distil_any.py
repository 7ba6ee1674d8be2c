"""Distils a MobileBERT student from any BERT-like encoder.

    accelerate launch recipes/distil_any.py --config recipes/distil_any.yaml --teacher ID_OR_FOLDER

Any argument of the YAML file can be given on the command line too, and wins; --help lists them all.
`mobilebert-hf distill` is the same in one command, planned to the time there is.
"""

from mobilebert_hf.distillation.any_teacher.run import RECIPE_ARGUMENTS, distil_any
from mobilebert_hf.recipe import launch

if __name__ == "__main__":
    launch(distil_any, RECIPE_ARGUMENTS)
