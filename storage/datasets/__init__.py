"""Data sets: the layouts in which videos are published, and what their files hold."""
