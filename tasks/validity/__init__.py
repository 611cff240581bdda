"""The validity benchmark: its cases, their truth, and the verdict."""
