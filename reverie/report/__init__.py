"""Run folder -> one page to read, and one table for the terminal. Reads files only."""
