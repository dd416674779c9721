#!/bin/bash
# Pretraining on several machines under SLURM: sbatch recipes/cluster/pretrain_slurm.sh RECIPE [--set ...]
#
# Run the earlier steps once, on one machine (`lm run RECIPE --only shards` and those before it), in
# the folder from which you call sbatch; all machines must see it. One torchrun is started on each
# machine. Two minutes before the time limit, SLURM sends SIGTERM: the ranks save a checkpoint and
# end, and the same command resumes from it. Change the lines below to what your cluster has.
#SBATCH --job-name=pretrain
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --open-mode=append

set -euo pipefail
export RANKS_PER_NODE="${RANKS_PER_NODE:-8}"
MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)"
export MASTER_ADDR
export MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 20000))}"

srun bash -c 'exec torchrun --nnodes "$SLURM_NNODES" --node-rank "$SLURM_NODEID" \
    --nproc-per-node "$RANKS_PER_NODE" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT" \
    -m training.engine "$@"' torchrun "$@"
