"""Pre-training on the public subset and differentially private fine-tuning."""
