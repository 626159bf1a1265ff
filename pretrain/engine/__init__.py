"""The training engine: DeepSpeed, checkpoints, schedules, metrics. It does not depend on any specific objective."""
