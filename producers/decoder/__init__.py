"""Frames to packet columns: link, network and transport headers, fragments, reasons for what is skipped."""
