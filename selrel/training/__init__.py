"""Training: recipes, samples, and how a model starts and learns."""
