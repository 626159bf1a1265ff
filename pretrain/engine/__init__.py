"""The training engine: DeepSpeed, checkpoints, schedules, figures. It knows no objective by name."""
