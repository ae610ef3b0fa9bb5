"""One file per outside library, named <stage>_<library>.py."""
