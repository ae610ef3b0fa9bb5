"""What a tagger reads of a post."""
