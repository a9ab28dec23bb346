"""The denoising diffusion model (EDM): network, preconditioning, loss, averaged weights,
samplers.
"""
