"""A queue on disk between a probe and the bus, for when the broker is away or slow."""
