"""Checkpoints: files read and written, where they appear, and what became of them."""
