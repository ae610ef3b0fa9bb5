"""Show tagged posts in readable form: each text, its pictures, and the tags found."""

import argparse
import csv
import json
from pathlib import Path


def main() -> None:
    """Print posts of a CSV beside their tags from a JSONL that `weibotag tag` wrote."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("posts", type=Path)
    parser.add_argument("tags", type=Path)
    parser.add_argument("--limit", type=int, help="posts to show; all by default")
    options = parser.parse_args()
    with options.posts.open(encoding="utf-8-sig", newline="") as file:
        posts = {row["post_id"]: row for row in csv.DictReader(file)}
    with options.tags.open(encoding="utf-8") as file:
        answers = [json.loads(line) for line in file]
    for answer in answers[: options.limit]:
        post = posts[answer["post_id"]]
        shown = " ".join(filter(None, [post["text"], f"[{post['images']}]" if post["images"] else ""]))
        tags = ", ".join(f"{tag['id']} {tag['score']:.2f}" for tag in answer["tags"]) or "no tag"
        print(f"{shown}\n    -> {tags}")
        if answer["error"]:
            print(f"    !  {answer['error']}")


if __name__ == "__main__":
    main()
