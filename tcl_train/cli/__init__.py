"""What is typed: overrides, choices, the dispatch to commands, and the exit status."""
