#!/usr/bin/env bash
# Fashion-Gen with ViT-B-32: the published benchmark from its own HDF5 files to a table of Rank@K beside published figures.
#
#   FASHION_GEN=~/fashion-gen bash runs/fashion-gen-base.sh
#
# FASHION_GEN holds fashiongen_256_256_train.h5 and fashiongen_256_256_validation.h5 (260,480 and 32,528 pairs).
# Needs: a GPU of 24 GB (14 GB computed), 40 GB of disk, and once the network for open_clip's LAION weights.
# Time and Rank@K of the whole are not measured: no GPU and no published weights were at hand. What stands below is
# measured on two CPU cores.
set -euo pipefail
cd "$(dirname "$0")/.."

FASHION_GEN=${FASHION_GEN:?name the folder with both HDF5 files}
OUT=${OUT:-state/fashion-gen}
CONFIG=configs/fashion-gen-base.yaml
flows() { "${PYTHON:-.venv/bin/python}" -m flows "$@"; }

# 1. Pixels become JPEG, Latin-1 becomes UTF-8, poses of one product keep its id. The validation file becomes test.
flows import fashion-gen "$FASHION_GEN" --out "$OUT"

# 2. 20 epochs of 249 steps at batch 1,024 (micro-batches of 256), concept prototypes, distillation from the start
#    weights. On several GPUs: torchrun --nproc-per-node 8 -m flows retrain --config … --data …
flows retrain --config "$CONFIG" --data "$OUT"

# 3. Rank@1, 5, 10 both ways on the full set and among 101 candidates, beside what others published for each
#    protocol. Ranking 32,528 pairs both ways takes about 10 s of two CPU cores, embedding them is the rest.
flows evaluate --version champion --config "$CONFIG" --data "$OUT" --protocol full,101 --compare published
