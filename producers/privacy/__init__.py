"""Privacy before the bus: addresses anonymised, names hashed, no payload."""
