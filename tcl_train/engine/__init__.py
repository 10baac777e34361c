"""The training loop, schedules and optimisers."""
