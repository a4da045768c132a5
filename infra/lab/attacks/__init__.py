"""Attacks on the lab's own hosts, in the lab's own namespaces, for detectors to learn from and be tested on.

Each module is one kind: what it sends, at a bounded rate, to addresses of the lab's plan and to no others.
"""
