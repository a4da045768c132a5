"""Linux interfaces through an AF_PACKET ring: the socket, the filter, the walk over the ring's blocks."""
