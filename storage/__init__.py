"""Files and stores: data sets, videos, checkpoints, cubes, tables and receipts."""
