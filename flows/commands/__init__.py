"""The sub-commands of `selrel`, one file each; what takes long to import is imported when they are called."""
