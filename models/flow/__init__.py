"""The fast-slow cascade: models of flows, from a fast one on packet 1 to slow ones on later packets."""
