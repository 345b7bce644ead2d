"""Data on disk: tables, training batches, imports and exports. The only package that imports Lance."""
