"""The page of a run: what it holds, what it marks, and that nothing in a post can do anything there."""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import ask, draw, shell
from PIL import Image
from reading import write

from weibotag.core.schema import arrow_schema
from weibotag.posts.source import PostsSource
from weibotag.taxonomy.tree import load
from weibotag.workflows import page
from weibotag.workflows.page import write_page

HOSTILE = [
    "</script><script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 2'>",
    "<!-- <script>",
    "\u2028\u202e\u2066 ]]> & \" ' {{policy}} {{data}}",
    "javascript:window.broken=3",
    "字" * 1_000_000,
]


class Parts(HTMLParser):
    """What elements a page has, and the text in its element `data`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.links: list[str] = []
        self.data = ""
        self._within = False
        self.feed(text)

    def handle_starttag(self, name: str, words: list[tuple[str, str | None]]) -> None:
        self.names.append(name)
        self.links += [value or "" for key, value in words if key in ("src", "href")]
        self._within = ("id", "data") in words

    def handle_data(self, text: str) -> None:
        if self._within:
            self.data += text

    def handle_endtag(self, name: str) -> None:
        self._within = False


def read_page(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Parts((folder / "index.html").read_text(encoding="utf-8")).data)
    return found


@pytest.fixture
def tagged(folder: Path) -> Path:
    """Go to a folder with labelled posts, one with a picture of print, tags of them (o.parquet) and what was read."""
    draw(folder / "a.png", "CAKE")
    posts = [
        {"post_id": "1", "text": "今天的蛋糕", "images": "a.png", "tags": "cake", "author": "甲", "channel": "美食"},
        {"post_id": "2", "text": "汽车", "images": "none.png", "tags": "cake", "author": "", "channel": ""},
        {"post_id": "3", "text": "雨", "images": "", "tags": "", "author": "", "channel": ""},
    ]
    write(folder / "p.jsonl", "".join(json.dumps(post) + "\n" for post in posts))
    done = ask("tag", "p.jsonl", "-t", "tree.csv", "-o", "o.parquet", "-q", "--workers", "0", "--words-only")
    assert done.exit_code in (0, 1), done.output
    done = ask("wordings", "p.jsonl", "-o", "w.parquet", "-q", "--workers", "0")
    assert done.exit_code in (0, 1), done.output
    return folder


def test_a_page_has_posts_with_what_was_found_and_what_is_wrong(tagged: Path) -> None:
    old = pq.read_table("o.parquet").slice(0, 2)
    old = old.set_column(1, "tags", pa.array([[{"id": "car", "score": 0.5}], []], arrow_schema("tags").field("tags").type))
    pq.write_table(old, "old.parquet")
    words = ("report", "o.parquet", "p.jsonl", "-t", "tree.csv", "--against", "old.parquet", "--wordings", "w.parquet")
    done = ask(*words, "-o", "page", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["posts"], told["pictures"], told["unshown"]) == (3, 1, 0)
    found = read_page(tagged / "page")
    assert (found["title"], found["against"]) == ("o.parquet", "old.parquet")
    first, second, third = found["posts"]
    assert [tag for tag, _ in first["p"]] == ["food", "cake"] or {tag for tag, _ in first["p"]} == {"food", "cake"}
    # Labels with their parents, as tags come with theirs.
    assert (first["g"], first["q"], first["a"]) == (["cake", "food"], [["car", 0.5]], "甲")
    assert ["cake", "text", "蛋糕"] in [one[:3] for one in first["e"]]
    [(file_id, [size])] = first["m"]
    assert [number for number, *_ in first["w"]] == [0] * len(first["w"])
    assert any(word.lower() == "cake" for _, _, kind, word, _ in first["w"] if kind == "ocr")
    with Image.open(tagged / "page" / "pictures" / f"{file_id}.webp") as picture:
        assert max(picture.size) <= page.SIDE
        assert abs(picture.width / picture.height - size[0] / size[1]) < 0.1
    assert "none.png" in second["x"]
    assert "m" not in second
    assert "g" not in third
    assert "p" not in third


def test_posts_without_an_answer_are_told_and_none_at_all_is_an_error(tagged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq.write_table(pq.read_table("o.parquet").slice(0, 1), "one.parquet")
    done = ask("report", "one.parquet", "p.jsonl", "-o", "page")
    assert "1 posts, 1 pictures, 2 posts without an answer left out: page/index.html" in done.output
    for words, code, said in (
        (("one.parquet", "p.jsonl", "--where", "post_id = '3'"), 3, "none is in one.parquet"),
        (("none.parquet", "p.jsonl"), 2, "no such file"),
        (("one.parquet", "p.jsonl", "--wordings", "o.parquet"), 2, "what `weibotag wordings` writes"),
    ):
        done = ask("report", *words, "-o", "other")
        assert (done.exit_code, said in done.output) == (code, True), done.output
    monkeypatch.setattr(page, "MOST_POSTS", 2)
    assert "over 2 posts; a page has at most that many" in ask("report", "o.parquet", "p.jsonl", "-o", "other").output


def write_hostile(folder: Path) -> Path:
    """Write a page of posts that would do something if they could."""
    rows = [{"post_id": f"{at}{text[:40]}".strip(), "text": text} for at, text in enumerate(HOSTILE)]
    write(folder / "h.jsonl", "".join(json.dumps(row | {"author": row["text"][:50]}) + "\n" for row in rows))
    tags = []
    for row in rows:
        short, place = row["text"][:60], {"media_id": None, "box": None}
        found = {"tags": [{"id": short, "score": 0.5}], "keywords": [{"keyword": short, "score": 0.5, "source": short}]}
        evidence = [{"tag_id": short, "kind": "text", "word": short[:9], **place}]
        tags.append({"post_id": row["post_id"], **found, "route": short, "evidence": evidence, "error": short})
    pq.write_table(pa.Table.from_pylist(tags, schema=arrow_schema("tags")), folder / "h.parquet")
    write_page(PostsSource(str(folder / "h.jsonl")), folder / "h.parquet", folder / "page", None, quiet=True)
    return folder / "page"


def test_no_text_of_a_post_leaves_its_place(tmp_path: Path) -> None:
    folder = write_hostile(tmp_path)
    text = (folder / "index.html").read_text(encoding="utf-8")
    parts = Parts(text)
    assert parts.names.count("script") == 2
    assert "img" not in parts.names
    assert parts.links == []
    assert "http" not in re.sub(r"http://www\.w3\.org/2000/svg|http-equiv", "", text)
    assert "default-src 'none'" in text
    texts = [post["t"] for post in read_page(folder)["posts"]]
    assert texts == HOSTILE


def test_without_a_taxonomy_labels_stay_as_they_are(tagged: Path) -> None:
    write_page(PostsSource("p.jsonl"), Path("o.parquet"), Path("page"), None, quiet=True)
    assert read_page(tagged / "page")["posts"][0]["g"] == ["cake"]
    write_page(PostsSource("p.jsonl"), Path("o.parquet"), Path("page"), load(Path("tree.csv")), quiet=True)
    assert read_page(tagged / "page")["names"]["cake"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Give the system's Chromium."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def open_page(browser: Any, folder: Path) -> tuple[Any, list[str]]:
    """Open a page; return it, and what its console says as it comes."""
    opened, said = browser.new_page(), list[str]()
    opened.on("console", lambda line: said.append(line.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda asked: None if asked.url.startswith("file:") else said.append(asked.url))
    opened.goto(f"file://{folder.absolute()}/index.html")
    opened.wait_for_selector("article")
    return opened, said


def test_filters_marks_and_pictures_in_a_browser(tagged: Path, browser: Any) -> None:
    words = ("report", "o.parquet", "p.jsonl", "-t", "tree.csv", "--wordings", "w.parquet", "-o", "page", "-q")
    assert shell(*words).returncode == 0
    opened, said = open_page(browser, tagged / "page")
    assert opened.inner_text("#count") == "3 of 3 posts"
    assert opened.inner_text("article >> nth=0 >> mark >> nth=0") in "今天的蛋糕"
    assert opened.eval_on_selector("article img", "one => one.decode().then(() => one.naturalWidth)") > 0
    assert opened.locator("article >> nth=0 >> rect").count() > 0
    for state in ("wrong", "missed", "untagged", "right"):
        opened.select_option("#state", state)
        opened.wait_for_selector("#count:text-is('1 of 3 posts')")
        opened.click("button[type=reset]")
        opened.wait_for_selector("#count:text-is('3 of 3 posts')")
    opened.fill("#text", "汽车")
    opened.wait_for_selector("#count:text-is('1 of 3 posts')")
    assert opened.locator(".wrong").count() > 0
    assert opened.locator(".missed").count() == 2
    opened.click("#figures summary")
    opened.wait_for_selector("#figuresbody table")
    assert opened.locator("#figuresbody table").count() == 2
    assert said == []


def test_hostile_posts_are_inert_in_a_browser(tmp_path: Path, browser: Any) -> None:
    opened, said = open_page(browser, write_hostile(tmp_path))
    assert opened.evaluate("window.broken") is None
    assert opened.locator("article").count() == len(HOSTILE)
    assert opened.inner_text("article >> nth=0 >> .text") == HOSTILE[0]
    assert opened.locator("article img").count() == 0
    opened.click("text=998000 more")
    assert len(opened.inner_text("article >> nth=5 >> .text")) == 1_000_000
    assert said == []
