"""Data sets, augmentation on batches, and the loader."""
