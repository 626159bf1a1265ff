#!/bin/bash

# Parameters
#SBATCH --account=lab
#SBATCH --constraint='a100|h100'
#SBATCH --cpus-per-task=12
#SBATCH --exclude='node[3-4]'
#SBATCH --exclusive
#SBATCH --gpus-per-node=2
#SBATCH --job-name=fast
#SBATCH --mem=491520MB
#SBATCH --nice=100
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --open-mode=append
#SBATCH --output=/somewhere/runs/large/logs/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=high
#SBATCH --requeue
#SBATCH --reservation=week
#SBATCH --signal=USR2@120
#SBATCH --time=2160

# setup
module load cuda
unset RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT
export PYTHONPATH=/somewhere/runs/large/snapshots/001/code"${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1
export SLURM_EXPORT_ENV=ALL

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /somewhere/runs/large/logs/%j_%t_log.out --kill-on-bad-exit=1 --cpus-per-task=12 --mpi=pmix sh -c 'trap "" USR2; exec "$@"' sh /python -u -m submitit.core._submit /somewhere/runs/large/logs
