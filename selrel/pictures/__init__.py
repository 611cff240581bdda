"""Pictures, films and playback of explanations: arrays in, arrays out."""
