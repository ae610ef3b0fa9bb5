"""Keywords of posts and visual codes of pictures."""
