"""The eight stages of the method, and the pipeline that runs them."""
