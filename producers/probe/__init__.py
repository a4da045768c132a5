"""The live probe: packets from interfaces and other live sources onto the bus."""
