"""LSTMs of packets, run by compiled code of our own instead of ONNX Runtime."""
