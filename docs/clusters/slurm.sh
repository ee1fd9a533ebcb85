#!/bin/bash
#SBATCH --job-name=llamaforge
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
#SBATCH --requeue
# Trains recipe.yaml on all GPUs of all nodes. Two minutes before the time is over the run saves and
# stops; submitted or requeued again, it goes on where it stopped.
#
# Needs: LLAMAFORGE_HOME and the model's store on a file system that all nodes share.
set -euo pipefail

NAME=${NAME:-notes}
RECIPE=${RECIPE:-recipe.yaml}
PORT=${PORT:-29400}
export LLAMAFORGE_HOME=${LLAMAFORGE_HOME:?a folder that all nodes share}
RUN=$LLAMAFORGE_HOME/runs/$NAME
FIRST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

trap 'llamaforge runs stop "$NAME" || true; wait' TERM

start() {
  if [ "$SLURM_NODEID" != 0 ]; then
    exec python -m llamaforge.worker.many "$RUN"
  elif [ -f "$RUN/run.yaml" ]; then
    exec llamaforge runs resume "$NAME" --json
  else
    exec llamaforge train "$RECIPE" --name "$NAME" --yes --json \
      --set device=cuda --set processes="${SLURM_GPUS_ON_NODE:-1}" \
      --set machines="$SLURM_NNODES" --set rendezvous="$FIRST:$PORT"
  fi
}
export -f start
export NAME RECIPE PORT RUN FIRST

# srun does not take over --cpus-per-task by itself. A node that cannot go on ends the others, which
# would wait for it.
srun --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=1 bash -c start &
wait $!
