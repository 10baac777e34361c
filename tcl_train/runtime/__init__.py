"""What a run computes on: device and precision, memory, randomness, and faster convolutions."""
