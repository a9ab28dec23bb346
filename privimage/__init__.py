"""PrivImage: differentially private synthetic images by diffusion models with semantic-aware
pre-training.
"""
