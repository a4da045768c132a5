"""The study of packet models: every model at every budget, learning rate and seed, and the report of it."""
