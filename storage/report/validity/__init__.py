"""The page of a validity benchmark: its words, tables and plots."""
