"""Payload sampling: which packets' first octets are kept, copied out of the capture and batched for the bus."""
