"""What leaves a run: images, privacy statement, model card, record."""
