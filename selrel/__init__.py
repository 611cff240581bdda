"""Explanations of video classifiers and their scores: arrays in, arrays out."""
