"""What runs beside Flowgauge: a broker for development and tests, and the traffic lab."""
