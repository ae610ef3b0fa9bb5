"""Posts in and out: files to tables, tables to files."""
