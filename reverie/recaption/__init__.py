"""Pairs -> better captions, in columns beside the text that is there, which is never overwritten."""
