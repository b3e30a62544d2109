"""The engine: models, kernels, sampling and the loop that runs them."""
