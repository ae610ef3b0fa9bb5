"""What tags mean, as vectors in the space of texts, and how near posts are to them."""

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weibotag.core.arrays import unit
from weibotag.core.errors import OwnFileError
from weibotag.core.own_files import Origin, TensorTypes, read_metadata, read_tensors, write_tensors
from weibotag.features.text_vectors import WIDTH, Encoder
from weibotag.taxonomy.tree import Taxonomy
from weibotag.vision.stage import FINGERPRINT_LENGTH

log = logging.getLogger(__name__)
ORIGIN = Origin("vectors of tags kept by an earlier run", "delete it")
KIND = "meanings"
SIZES: TensorTypes = {"vectors": ("float32", "tags", "width"), "shared": ("float32", "width")}
# A taxonomy of more tags would take minutes to read.
MOST_TAGS = 5_000
# What a description counts beside names and keywords.
DESCRIBED = 0.7
# Of keywords so many characters are read.
MOST_OF_KEYWORDS = 300
# A mean of few tags is drawn towards that of posts, as if it were one of so many more.
PRIOR_TAGS = 20
# Posts about everything that people write about: their mean is what all posts share, and says nothing.
EVERYDAY = (
    """
大巴黎的比赛，姆巴佩离开后的法国联赛|海边沙滩，浮潜看海龟，三亚马尔代夫|库克，苹果发布会，应用商店政策
手表看心率睡眠，运动手环|奔驰宝马奥迪，内饰质感，落地价|重疾险理赔，买保险踩坑|提取公积金，缴存比例，公积金贷款额度
深蹲卧推硬拉，加重量，杠铃哑铃|撸串，羊肉串，炭火，夜市烧烤配啤酒|画眉毛，眉笔，野生眉|西装外套，白衬衫，面试正装
好莱坞明星，霉霉，红人|爱情电影看哭，错过的人|都市男女，职场爱情，婚姻|喜剧节目，脱口秀大会|电音，DJ，蹦迪
排位，打野辅助，连跪，上星，队友坑|TI国际邀请赛，刀塔战队|柯南，黑衣组织，剧场版|三体，科幻小说
赵匡胤，宋徽宗，岳飞，文人|立春冬至，节气到了|航空母舰，舰载机，海试|地震洪水泥石流，救灾|欧盟，法国总统，德国大选
房屋买卖纠纷，过户|背单词，口语，四六级|加班到深夜，老板催，改方案，周末上班|军训，教官，晒黑|喂奶，堵奶，背奶
婚礼现场，备婚，婚纱，伴娘|处女座，洁癖完美|整蛊，恶作剧|鹦鹉，玄凤，学说话|阳台种辣椒番茄，收菜|奶油风，原木风，侘寂
高血压糖尿病，三高|医学生，规培，考试，背书|黑白照片|素描，速写，排线|室内设计，空间|芭蕾，足尖，天鹅湖|快板
数学题，公式|野花，植物|养鸡养鸭，鸡蛋|灾区救援，捐赠物资|优惠券，免费，薅羊毛
""".strip()
    .replace("\n", "|")
    .split("|")
)


@dataclass(frozen=True)
class TagMeanings:
    """Vectors of tags (tags, d) float32 of unit length or zero, of what is special about them; `shared` (d,) is what all
    posts share.
    """

    vectors: np.ndarray
    shared: np.ndarray


def open_meanings(taxonomy: Taxonomy, encode: Encoder, folder: Path) -> TagMeanings | None:
    """Return what the tags of a taxonomy mean, read from `folder` where an earlier call left it.

    None for a taxonomy of more than `MOST_TAGS` tags.
    """
    if len(taxonomy) > MOST_TAGS:
        log.warning("%s tags are too many to compare with what posts mean: words alone decide", f"{len(taxonomy):,}")
        return None
    asked = json.dumps([encode.fingerprint, taxonomy.digest, EVERYDAY, DESCRIBED, MOST_OF_KEYWORDS, PRIOR_TAGS])
    path = folder / f"{KIND}-{hashlib.sha256(asked.encode()).hexdigest()[:FINGERPRINT_LENGTH]}.safetensors"
    try:
        read_metadata(path, KIND, dict[str, str], ORIGIN)
        kept = read_tensors(path, SIZES, ORIGIN, {"tags": len(taxonomy), "width": WIDTH})
        return TagMeanings(kept["vectors"], kept["shared"])
    except OwnFileError:
        # Not there yet, or damaged.
        found = read_meanings(taxonomy, encode)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(path, {"vectors": found.vectors, "shared": found.shared}, (KIND, {}))
    except OSError as error:
        log.warning("%s: can't be kept for the next run (%s)", path, error.strerror)
    return found


def read_meanings(taxonomy: Taxonomy, encode: Encoder) -> TagMeanings:
    """Return what the tags mean: their names with those above, their keywords, and their descriptions.

    A tag with others below is half the mean of these.
    """
    shared = encode(EVERYDAY).mean(axis=0)
    names = encode([" ".join(_path(taxonomy, number)) for number in range(len(taxonomy))])
    keywords = encode(["，".join(tag.keywords) for tag in taxonomy.tags], MOST_OF_KEYWORDS)
    described = encode([tag.description for tag in taxonomy.tags])
    # Names and keywords have something of their own in common; descriptions are written as posts are.
    own = unit(_special(names, shared) + _special(keywords, shared))
    own = unit(own + DESCRIBED * unit(np.where(described.any(axis=1, keepdims=True), described - shared, 0)))
    for tag in taxonomy.order[::-1].tolist():
        below = taxonomy.children(tag)
        if below:
            own[tag] = unit(own[tag] + unit(own[list(below)].mean(axis=0)))
    return TagMeanings(own.astype(np.float32), shared.astype(np.float32))


def _path(taxonomy: Taxonomy, number: int) -> list[str]:
    """Return the names of a tag and those above it, the highest first."""
    return [taxonomy.tags[one].name for one in (*reversed(taxonomy.ancestors(number)), number)]


def _special(vectors: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Return unit vectors of how vectors (n, d) differ from their mean; zeros stay."""
    has = vectors.any(axis=1, keepdims=True)
    mean = (vectors.sum(axis=0) + PRIOR_TAGS * prior) / (has.sum() + PRIOR_TAGS)
    return unit(np.where(has, vectors - mean, 0))
