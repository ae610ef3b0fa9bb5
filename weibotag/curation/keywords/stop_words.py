"""Words that are said of anything, and characters that no Chinese keyword begins or ends with."""

EDGES = frozenset("的了是在我你他她它们和与及或也都就很还又不没这那着把被让吗呢吧啊呀么")
_WORDS = """
一个 一些 一样 一种 一起 一直 之后 之前 今天 昨天 明天 现在 目前 已经 正在 自己 大家 什么 怎么 怎样 如何 为什么 可以 可能
能够 应该 需要 必须 因为 所以 但是 不过 而且 如果 虽然 然而 以及 通过 根据 关于 对于 由于 其中 其他 非常 十分 比较 更加 有点
真的 有人 有些 只有 只是 还有 没有 就是 也是 表示 希望 觉得 认为 知道 看到 进行 开始 继续 成为 使用 时候 时间 问题 方面 情况
全文 网页链接 分享图片 转发微博 视频 图片 哈哈 哈哈哈
a about after all also am an and any are as at back be because been but by can can't could did do does don't down even for
from get go going good got great had has have he her here him his how http https i if i'm in into is it it's its just know
let like lol make me more most much my no not now of off on one only or other our out over own people re really rt say
see she should so some than thank thanks that that's the their them then there these they this those time to today too
up us very via want was way we well were what when where which while who why will with would www yes you you're your
"""
STOP_WORDS = frozenset(_WORDS.split())
