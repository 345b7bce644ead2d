"""Bytes on disk: tables, training batches, and the doors in and out. The only folder that imports Lance."""
