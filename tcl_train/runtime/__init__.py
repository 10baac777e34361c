"""The machine: device and precision, memory, randomness, signals, files, and faster
convolutions."""
