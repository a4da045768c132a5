"""One module per stage that ``flowgauge bench`` measures."""
