"""Packets classified one by one, from the first octets of their payload."""
