"""Arrays: zarr groups of frames, motion and relevance, checked before they are decoded."""
