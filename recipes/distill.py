"""Distills a MobileBERT student from any BERT-like encoder, or with the head from a fine-tuned one (`--data`).

    accelerate launch recipes/distill.py --config recipes/distill.yaml --teacher ID_OR_FOLDER
    accelerate launch recipes/distill.py --config recipes/distill_ib_bert.yaml

Every argument of the YAML file can also be given on the command line, which takes precedence; --help lists them all.
`mobilebert-hf distill` does the same; `mobilebert-hf schedule recipes/distill_ib_bert.yaml` shows the stages.
"""

from mobilebert_hf.launch import RECIPES, launch

if __name__ == "__main__":
    launch(*RECIPES["distill"])
