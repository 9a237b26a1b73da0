#!/usr/bin/env bash
# From EasyNLP: what run_clip_local.sh does in its modes train_en, evaluate_en and predict_en, with the same files.
#
#   TRAIN=fashiongen_1to1_train.tsv TEST=fashiongen_1to1_test.tsv WEIGHTS=~/pai-clip-commercial-base-en \
#       bash runs/from-easynlp.sh
#
# TRAIN and TEST are --tables' two files as they are (caption, tab, base64). docs/from-easynlp.md maps every flag.
# Needs: a GPU of 8 GB (6 GB computed); time and Rank@K are not measured.
set -euo pipefail
cd "$(dirname "$0")/.."

TRAIN=${TRAIN:?name the TSV that EasyNLP trains on}
TEST=${TEST:?name the TSV that EasyNLP evaluates on}
WEIGHTS=${WEIGHTS:?name the folder of pai-clip-commercial-base-en as published}
OUT=${OUT:-state/from-easynlp}
CONFIG=configs/easynlp-en.yaml
flows() { "${PYTHON:-.venv/bin/python}" -m flows "$@"; }

# 1. EasyNLP's weights as base weights, QuickGELU in both towers; embeddings equal to 1e-5.
flows models import "$WEIGHTS" --as pai-clip-commercial-base-en

# 2. The tables become a folder with train and test. Nothing is converted: `import easynlp` checks and copies lines.
flows import easynlp "$TRAIN" --out "$OUT/pairs" --set split=train
flows import easynlp "$TEST" --out "$OUT/pairs" --set split=test

# 3. --mode=train and --mode=evaluate. Leaks between the two files stop this step with their line numbers.
flows retrain --config "$CONFIG" --data "$OUT/pairs"

# 4. --mode=predict, both columns at once, as Parquet. For a TSV of captions or of images alone, `--format easynlp` writes
#    floats between tabs as EasyNLP does; reading them gives the same bits.
flows predict "$OUT/pairs/test.tsv" --model models:/commerce-clip@champion --out "$OUT/features.parquet"

# 5. The fine-tuned model as EasyNLP loads it.
flows models convert models:/commerce-clip@champion --to easynlp --out "$OUT/easynlp"
