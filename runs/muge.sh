#!/usr/bin/env bash
# MUGE in Chinese: EasyNLP's RoBERTa + ViT-B-32, fine-tuned on 250,314 queries of a shop and their images.
#
#   MUGE=~/MUGE WEIGHTS=~/clip_chinese_roberta_base_vit_base bash runs/muge.sh
#
# MUGE holds MR_train_queries.jsonl, MR_train_imgs.tsv and the same of valid. MUGE's own test has no answers, so its
# valid becomes our test, and 2 % of train chooses the epoch. WEIGHTS is the folder as EasyNLP publishes it.
# Needs: a GPU of 8 GB (6 GB computed). One epoch of 7,822 steps; time and Rank@K are not measured.
set -euo pipefail
cd "$(dirname "$0")/.."

MUGE=${MUGE:?name the folder with the MR_*_queries.jsonl and MR_*_imgs.tsv files}
WEIGHTS=${WEIGHTS:?name the folder of clip_chinese_roberta_base_vit_base as published}
OUT=${OUT:-state/muge}
CONFIG=configs/muge-base.yaml
flows() { "${PYTHON:-.venv/bin/python}" -m flows "$@"; }

# 1. The published weights become base weights under the name that the config asks for. Their pickle loads as tensors
#    or not at all; the embeddings are EasyNLP's to 1e-5.
flows models import "$WEIGHTS" --as clip_chinese_roberta_base_vit_base

# 2. A query has several images and an image several queries: a line a pair, and each of them counts as right.
flows import muge "$MUGE/MR_train_queries.jsonl" --out "$OUT"
flows import muge "$MUGE/MR_valid_queries.jsonl" --out "$OUT" --set split=test

# 3. Rate, tokens, batch, epochs and seed are those of EasyNLP's train_cn.
flows retrain --config "$CONFIG" --data "$OUT"

# 4. The model goes back as EasyNLP reads it.
flows models convert models:/commerce-clip@champion --to easynlp --out "$OUT/easynlp"
