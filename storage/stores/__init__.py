"""Stores: bytes under a root, on a disk or on S3, with receipts and leases."""
