"""Measures of frozen features: linear probes and kNN."""
