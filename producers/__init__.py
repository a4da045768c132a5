"""From packets to the bus: sources, decoder, batches, replay.

A gateway installs only this package and ``schemas``.
"""
