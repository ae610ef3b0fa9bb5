#!/bin/sh
# The main job on examples/: train, tag, evaluate, beside the rules tagger, which needs no labels. Called by `make demo`.
set -eu
cd "$(dirname "$0")/.."
weibotag=${WEIBOTAG:-weibotag}
python=${PYTHON:-python3}
taxonomy=taxonomies/weibo.csv
out=build/demo
mkdir -p "$out"
# A store of its own, so that the demo leaves nothing in your cache folder.
WEIBOTAG_STORE=$out/store
export WEIBOTAG_STORE

say() { printf '\n== %s\n' "$*"; }
micro_f1() {
    "$weibotag" evaluate "$1" examples/posts.csv -t "$taxonomy" --where "split = 'test'" --json |
        "$python" -c 'import json, sys; print(format(json.load(sys.stdin)["micro_f1"], ".3f"))'
}

say "1. Train on the posts of split train; which tagger, and thresholds, on split valid"
"$weibotag" train examples/posts.csv -t "$taxonomy" -o "$out/model" --where "split = 'train'" --valid "split = 'valid'"

say "2. Tag the posts of split test with the model, and compare with the tags given by hand"
"$weibotag" tag examples/posts.csv -m "$out/model" -o "$out/test.parquet" --where "split = 'test'"
"$weibotag" evaluate "$out/test.parquet" examples/posts.csv -t "$taxonomy" --where "split = 'test'" --per-tag 5

say "3. Tag them with the words of the taxonomy alone (rules): no labels, no training"
"$weibotag" tag examples/posts.csv -t "$taxonomy" -o "$out/test-rules.parquet" --where "split = 'test'"

say "4. Tag new posts: with the model, and with rules"
"$weibotag" tag examples/new_posts.csv -m "$out/model" -o "$out/new.jsonl"
"$weibotag" tag examples/new_posts.csv -t "$taxonomy" -o "$out/new-rules.csv"

say "Some of the new posts, as the model tags them"
"$python" examples/show_tags.py examples/new_posts.csv "$out/new.jsonl" --limit 8

say "A page of the test posts: what is right, wrong and missed, and why"
"$weibotag" report "$out/test.parquet" examples/posts.csv -t "$taxonomy" --where "split = 'test'" -o "$out/report"

say "How good: micro-F1 on the $("$python" -c 'import csv; rows = csv.DictReader(open("examples/posts.csv", encoding="utf-8")); print(sum(row["split"] == "test" for row in rows))') posts of split test"
echo "trained  $(micro_f1 "$out/test.parquet")"
echo "rules    $(micro_f1 "$out/test-rules.parquet")"

say "Where it is"
echo "tags of the new posts:  $out/new.jsonl (model), $out/new-rules.csv (rules)"
echo "tags of the test posts: $out/test.parquet (model), $out/test-rules.parquet (rules)"
echo "page to look at:        $out/report/index.html (open it in a browser)"
echo "model:                  $out/model"
echo "what pictures say:      $out/store (kept: pictures seen once are not looked at again)"
