"""What this machine has: GPUs, limits, the build of torch."""
