"""The flows, and how a person starts them."""
