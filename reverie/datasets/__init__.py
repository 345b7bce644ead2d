"""Images with labels or captions, as they come: to learn from and to measure on."""
