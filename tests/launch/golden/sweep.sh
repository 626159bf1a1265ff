#!/bin/bash

# Parameters
#SBATCH --array=0-5%2
#SBATCH --job-name=fast
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/somewhere/runs/fast/logs/%A_%a_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=30

# setup
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
export PYTHONPATH=/somewhere/runs/fast/snapshots/001/code"${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
export SLURM_EXPORT_ENV=ALL

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /somewhere/runs/fast/logs/%A_%a_%t_log.out --kill-on-bad-exit=1 sh -c 'trap "" USR2; exec "$@"' sh /python -u -m submitit.core._submit /somewhere/runs/fast/logs
