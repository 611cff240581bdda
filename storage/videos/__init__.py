"""Videos: decoded in processes of their own, since nobody knows what is in them."""
