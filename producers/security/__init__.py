"""TLS and SASL for every client of the bus, from one place of the settings."""
