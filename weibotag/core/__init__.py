"""What every package may use: errors, the schema, files, arrays, progress."""
