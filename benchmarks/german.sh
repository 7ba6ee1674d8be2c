#!/usr/bin/env bash
# A German sentence encoder of at most 9M parameters and 10 MB in int8, of multilingual-e5-small, in an hour on a CPU.
#
#     bash benchmarks/german.sh TEACHER german.txt.gz dev.csv.gz runs/german
#
# TEACHER is a Hub id or folder; the corpus is German text; the pairs are those of PhilipMay/stsb_multi_mt, as a CSV file.
# The same command goes on after an interruption. It ends with an error where the student is larger than that.
#
# The shape: six of the teacher's 12 layers with a third of their neurons are 5.9M parameters, 20,000 pieces of 128
# numbers are 2.6M, positions and the rest 0.3M.
set -euo pipefail
teacher=$1 corpus=$2 pairs=$3 output=$4
minutes=${MINUTES:-60}

mkdir -p "$output"
python - "$pairs" "$output/glue" <<'PYTHON'
"""STS-B's dev set in GLUE's layout."""
import csv, gzip, pathlib, sys

source, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]) / "STS-B"
folder.mkdir(parents=True, exist_ok=True)
opener = gzip.open if source.suffix == ".gz" else open
with opener(source, "rt", encoding="utf-8", newline="") as file:
    rows = [[text.replace("\t", " ") for text in row] for row in csv.reader(file)]
lines = ["\t".join(["index", "sentence1", "sentence2", "score"])]
lines += ["\t".join([str(index), *row]) for index, row in enumerate(rows)]
(folder / "dev.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
PYTHON

mobilebert-hf distill --teacher "$teacher" --corpus "$corpus" --output "$output/student" --minutes "$minutes" \
    --keep_vocabulary 20000 --task stsb --task_data "$output/glue"
mobilebert-hf export "$output/student" "$output/exported" --quantize int8
python - "$output" <<'PYTHON'
"""What came of it, and whether it is small and good enough."""
import json, pathlib, sys

output = pathlib.Path(sys.argv[1])
results = json.loads((output / "student" / "results.json").read_text())
megabytes = (output / "exported" / "onnx" / "model_quantized.onnx").stat().st_size / 1e6
parameters = results["student"]["parameters"] / 1e6
scores = [100 * results[name]["task"] for name in ("teacher", "student")]
print(f"{parameters:.2f}M parameters, {megabytes:.1f} MB in int8, {results['minutes']:.0f} minutes")
print(f"STS-B German dev, Spearman: teacher {scores[0]:.2f}, student {scores[1]:.2f}, {scores[1] / scores[0]:.1%}")
if parameters > 9 or megabytes > 10:
    sys.exit("The student is larger than 9M parameters or 10 MB.")
PYTHON
