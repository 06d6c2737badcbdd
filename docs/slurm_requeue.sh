#!/bin/bash
# One or more nodes under SLURM, requeued when its time is up: sbatch docs/slurm_requeue.sh CONFIG [KEY=VALUE ...]
# 120 s before the end SLURM sends SIGUSR1 to this script; the run saves the step it has reached and ends, and the same
# job goes on from there when SLURM starts it again. The folder of the run must be on a disk that all nodes share.
#SBATCH --job-name=vidkd
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
processes=${SLURM_GPUS_ON_NODE:-1}

# torchrun hands on SIGTERM and SIGINT by itself, SIGUSR1 only if told to, and kills what has not ended after 30 s.
srun python -m torch.distributed.run \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node="$processes" \
    --rdzv_backend=c10d --rdzv_endpoint="$head:$((20000 + SLURM_JOB_ID % 10000))" --rdzv_id="$SLURM_JOB_ID" \
    --signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 --shutdown-timeout=100 \
    -m vidkd.train "$@" train.grace_s=100 &
job=$!

asked=
trap 'asked=1; kill -USR1 "$job"' USR1
trap 'kill -TERM "$job"' TERM
wait "$job"
status=$?
while kill -0 "$job" 2>/dev/null; do # a signal ends `wait`, not the job
    wait "$job"
    status=$?
done
if [ -n "$asked" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
