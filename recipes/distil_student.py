"""Distils a MobileBERT student from a teacher by layer-wise knowledge transfer.

    accelerate launch recipes/distil_student.py --config recipes/distil_student.yaml

Any argument of the YAML file can be given on the command line too, and wins; --help lists them all.
`mobilebert-hf schedule --config recipes/distil_student.yaml` shows the stages without training.
"""

from mobilebert_hf.distillation.run import RECIPE_ARGUMENTS, distill
from mobilebert_hf.recipe import launch

if __name__ == "__main__":
    launch(distill, RECIPE_ARGUMENTS)
