"""``flowgauge bench serve``: a cascade served at a set rate of new flows, from the packet to the answer."""
