#!/bin/sh
# Tag a CSV of posts; fit for cron: says nothing when all went well, and never leaves half a file at OUT.
#
#     examples/tag_csv.sh POSTS OUT [MODEL]
#
# POSTS  CSV (or TSV, JSONL, Parquet) with post_id and text or images; picture paths start from its folder
# OUT    .parquet, .csv or .jsonl; OUT.run beside it holds the rejected rows and goes on with a run that was stopped
# MODEL  folder that `weibotag train` made; without it the words of taxonomies/weibo.csv tag
#
# WEIBOTAG names the command (default: the one in .venv, else that on PATH), WEIBOTAG_STORE the folder that keeps what
# pictures say (default: the user's cache folder).
#
# Exit codes are those of weibotag:
#   0    done
#   1    done in part: OUT is written without some posts or pictures; the same command tries those again
#   2    the request is wrong: a file that is missing, a column that is unknown, a model that does not fit
#   3    more rejected rows than --max-rejects allows (not set here)
#   4    another run is at work on the same OUT, so a late start of cron does no harm
#   130  interrupted; the same command goes on
set -eu

if [ $# -lt 2 ] || [ $# -gt 3 ]; then
    echo "usage: $0 POSTS OUT [MODEL]" >&2
    exit 2
fi
home=$(cd "$(dirname "$0")/.." && pwd)
weibotag=${WEIBOTAG:-$home/.venv/bin/weibotag}
command -v "$weibotag" >/dev/null || weibotag=weibotag

if [ $# -eq 3 ]; then
    set -- tag "$1" --out "$2" --model "$3"
else
    set -- tag "$1" --out "$2" --taxonomy "$home/taxonomies/weibo.csv"
fi
exec "$weibotag" "$@" --quiet
