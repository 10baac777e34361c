"""What a run leaves: its directory, checkpoints, metrics and log."""
