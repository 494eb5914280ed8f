#!/bin/sh
# The same command on each of NODES machines, of which the one named HEAD is any of them:
#   NODES=2 HEAD=node-a sh training/launch/several_nodes.sh --config training/configs/shapes.yaml device=cuda
# All see the same files under the same names: configuration, weights and output, where each writes its part.
# parallel.shard=GPUS_OF_A_NODE splits a network within a machine only: more memory, far less traffic between them.
: "${NODES:?how many machines}" "${HEAD:?the name or address of one of them}"
exec torchrun --nnodes "$NODES" --nproc-per-node "${GPUS:-gpu}" \
    --rdzv-backend c10d --rdzv-endpoint "$HEAD:${PORT:-29500}" --rdzv-id "${JOB:-dcm}" training/distill.py "$@"
