#!/bin/sh
# Five tasks from labels to a device: a teacher is fine-tuned and distilled with its head; the student is exported in
# int8 and scored. Beside it, for the same data: the same student trained on the labels without the teacher's logits and
# features, and the teacher with every second layer.
#
#     benchmarks/tasks.sh DATA MODEL OUTPUT [STEPS]
#
# DATA    a folder with banking77/train.csv.gz, goemotions/{train,dev}.tsv.gz and emotions.txt, ner/uner-en-ewt/
#         {train,dev}.conll.gz, glue/SST-2/{train,dev}*.tsv.gz, squad/{train-v1.1,dev-v1.1-a}.json.gz
# MODEL   the encoder that teachers are made of, such as sentence-transformers/all-MiniLM-L6-v2
# OUTPUT  a folder for models and results
# STEPS   a limit for every training, to try the script
#
# TASKS (which), MINUTES (of each distillation) and CORPUS (text for general transfer before) may be set. Interrupted, the
# same command goes on: steps that are done leave a file `.done`, others resume from their checkpoints.
set -eu
data=$1 model=$2 output=$3
tasks=${TASKS:-"banking77 goemotions ner sst2 squad"}
limit=${4:+--max_steps $4}
duration=${limit:---minutes ${MINUTES:-180}}
corpus=${CORPUS:+--corpus $CORPUS}
mkdir -p "$output"

# once NAME COMMAND...: runs a command unless it is done.
once() {
    done=$output/$1.done
    shift
    if [ ! -e "$done" ]; then
        echo "== $*"
        "$@"
        touch "$done"
    fi
}

# cut_layers FOLDER: the encoder with every second layer, the last one among them.
cut_layers() {
    python - "$model" "$1" <<'PYTHON'
import sys

from torch import nn
from transformers import AutoModel, AutoTokenizer

from mobilebert_hf.distillation.teachers import find_layers

model = AutoModel.from_pretrained(sys.argv[1])
layers = find_layers(model)
kept = list(layers)[1::2]
name = next(name for name, module in model.named_modules() if module is layers)
model.set_submodule(name, nn.ModuleList(kept))
model.config.num_hidden_layers = len(kept)
model.save_pretrained(sys.argv[2])
AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])
PYTHON
}

# split FILE TRAIN VALIDATION: every tenth row, which no model sees, is for validation.
split() {
    python - "$@" <<'PYTHON'
import csv
import gzip
import sys

with gzip.open(sys.argv[1], "rt", encoding="utf-8", newline="") as stream:
    heading, *rows = csv.reader(stream)
for path, chosen in ((sys.argv[2], 0), (sys.argv[3], 1)):
    with open(path, "w", encoding="utf-8", newline="") as stream:
        part = (row for index, row in enumerate(rows) if (index % 10 == 9) == bool(chosen))
        csv.writer(stream).writerows([heading, *part])
PYTHON
}

# run NAME KIND TRAIN VALIDATION OPTIONS...: all steps of a task.
run() {
    name=$1 kind=$2 train=$3 held="--validation $4"
    shift 4
    folder=$output/$name
    mkdir -p "$folder"
    once "$name/teacher" mobilebert-hf finetune --task "$kind" --train "$train" $held --model "$model" \
        --output "$folder/teacher" $limit "$@"
    once "$name/student" mobilebert-hf distill --teacher "$folder/teacher" --data "$train" $held $corpus \
        --output "$folder/student" --processes 1 $duration "$@"
    once "$name/alone" mobilebert-hf distill --teacher "$folder/teacher" --data "$train" $held $corpus \
        --output "$folder/alone" --processes 1 --alpha 1 --feature_weight 0 $duration "$@"
    once "$name/layers" cut_layers "$folder/layers"
    once "$name/cut" mobilebert-hf finetune --task "$kind" --train "$train" $held --model "$folder/layers" \
        --output "$folder/cut" $limit "$@"
    for quantize in "" int8; do
        once "$name/export$quantize" mobilebert-hf export "$folder/student" "$folder/export" \
            ${quantize:+--quantize $quantize}
    done
}

# score NAME DATA OPTIONS...: the graphs of a task beside PyTorch.
score() {
    name=$1
    shift
    once "$name/score" mobilebert-hf score "$output/$name/export" --data "$@"
}

for task in $tasks; do
    case $task in
    banking77)
        mkdir -p "$output/banking77"
        train=$output/banking77/train.csv dev=$output/banking77/dev.csv
        once banking77/split split "$data/banking77/train.csv.gz" "$train" "$dev"
        run banking77 classify "$train" "$dev" --max_seq_length 64
        score banking77 "$dev" --max-length 64
        ;;
    goemotions)
        columns="--text_column 1 --label_column 2"
        run goemotions multilabel "$data/goemotions/train.tsv.gz" "$data/goemotions/dev.tsv.gz" --max_seq_length 48 \
            $columns --class_names "$data/goemotions/emotions.txt"
        score goemotions "$data/goemotions/dev.tsv.gz" --max-length 48 --text-column 1 --label-column 2 \
            --class-names "$data/goemotions/emotions.txt"
        ;;
    ner)
        run ner tag "$data/ner/uner-en-ewt/train.conll.gz" "$data/ner/uner-en-ewt/dev.conll.gz"
        score ner "$data/ner/uner-en-ewt/dev.conll.gz"
        ;;
    sst2)
        train=$(ls "$data"/glue/SST-2/train*) dev=$(ls "$data"/glue/SST-2/dev*)
        run sst2 classify "$train" "$dev" --max_seq_length 64
        score sst2 "$dev" --max-length 64
        ;;
    squad)
        run squad squad "$data/squad/train-v1.1.json.gz" "$data/squad/dev-v1.1-a.json.gz" --max_seq_length 256
        score squad "$data/squad/dev-v1.1-a.json.gz" --max-length 256
        ;;
    *)
        echo "TASKS: $task is not one of banking77 goemotions ner sst2 squad" >&2
        exit 2
        ;;
    esac
done
