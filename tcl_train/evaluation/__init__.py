"""What frozen features are worth: linear probes and kNN."""
