"""Texts as platforms write them, made plain: no markup, no invisible characters; hashtags of all platforms as #…#."""

import html
import re
import unicodedata
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

# Texts without any of these are plain already (RE2).
MARKED_UP = (
    "[@＠#＃&\\[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff\U0001d400-\U0001d7ff"
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|https?://|网页链接|全文"
)
INVISIBLE = re.compile("[\u00ad\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")
# Letters and digits drawn bold, italic, in Fraktur …
DRAWN = re.compile("[\U0001d400-\U0001d7ff]+")
CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
ENTITY = re.compile("&(?:#[0-9]{1,7}|#x[0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")
LINK = re.compile("https?://[!-~]+|O?网页链接|(?:\\.{3}|…)?展开全文|(?:\\.{3}|…)全文", re.ASCII)
# #话题[超话]# and 话题超话 of Weibo, #话题[话题]# of Xiaohongshu.
TOPIC_MARK = re.compile("\\[(?:超话|话题)\\]")
# Emoticons are [doge], [允悲], [笑cry], [打call], [偷笑R]; a heading is [NBA], [iPhone].
EMOTICON = re.compile("\\[(?:[a-z]{0,6}[\u4e00-\u9fff]{1,5}[a-zA-Z]{0,4}|[a-z]{2,6}|NO|OK)R?\\]")
# //@name: of a repost, 回复@name:, @name; an address of mail is none.
MENTION = re.compile("(?:(?://|回复)\\s?)?(?<![A-Za-z0-9._-])@[\\w·-]{1,30}[:：]?")
# A hashtag that no second # closes ends with its word: `#coffeetime in the morning`, `真香 #火锅 #美食`.
OPEN_HASHTAG = re.compile("(?<![\\w#&/])#([^\\W\\d_][\\w·]{1,29})(?=\\s|$)(?![^#\n]{0,30}[^#\\s]#)")


def make_plain(text: str) -> str:
    """Return a text without markup: emoticon codes, links and control characters are blanks; mentions stay.

    Invisible characters are gone, HTML's entities and drawn letters (𝐢𝐏𝐡𝐨𝐧𝐞) are what they stand for, and the topics and
    one-sided hashtags of all platforms are #…#.
    """
    if "&" in text:
        text = ENTITY.sub(lambda match: html.unescape(match[0]), text)
    text = CONTROLS.sub(" ", INVISIBLE.sub("", text)).replace("＃", "#").replace("＠", "@")
    text = LINK.sub(" ", DRAWN.sub(lambda match: unicodedata.normalize("NFKC", match[0]), text))
    if "[" in text:
        text = EMOTICON.sub(" ", TOPIC_MARK.sub("", text))
    return OPEN_HASHTAG.sub("#\\1#", text) if "#" in text else text


def hide_mentions(texts: Sequence[str]) -> list[str]:
    """Return texts with as many blanks for each @name: whom a post speaks to is not what it speaks of."""
    return [MENTION.sub(lambda match: " " * len(match[0]), text) if text and "@" in text else text for text in texts]


def make_texts_plain(table: pa.Table) -> pa.Table:
    """Return posts whose column `text` is plain; nulls stay."""
    texts = table["text"].combine_chunks()
    marked = pc.fill_null(pc.match_substring_regex(texts, MARKED_UP), False)
    if not pc.any(marked).as_py():
        return table
    plain = pa.array([make_plain(text) for text in texts.filter(marked).to_pylist()], texts.type)
    at = table.column_names.index("text")
    return table.set_column(at, table.schema.field(at), pc.replace_with_mask(texts, marked, plain))
