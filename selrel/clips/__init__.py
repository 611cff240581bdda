"""Clips: what a model expects of them, how a video is cut into them, and what moves in them."""
