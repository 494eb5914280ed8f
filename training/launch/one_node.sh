#!/bin/sh
# All GPUs of this machine (GPUS=4 takes four), from the root of the repository:
#   sh training/launch/one_node.sh --config training/configs/shapes.yaml stage=semantic device=cuda
# data.batch_size is that of all GPUs together, and has to be a multiple of their number.
# To stop and save: touch OUTPUT/STAGE/stop. The same command goes on from there, also on another number of GPUs.
exec torchrun --standalone --nproc-per-node "${GPUS:-gpu}" training/distill.py "$@"
