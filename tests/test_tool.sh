#!/bin/sh
# Behaviour of the vtc binary: test_tool.sh PATH/TO/vtc PATH/TO/examples/photos
set -u
here=$(cd "$(dirname "$0")" && pwd)
vtc=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
photos=$(cd "$2" && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cd "$work" || exit 1
failures=0
# fontconfig keeps what it read until the process ends
export LSAN_OPTIONS="suppressions=$here/support/lsan.supp"

fail() {
    echo "FAIL: $1"
    sed 's/^/    /' out err
    failures=$((failures + 1))
}

# expect STATUS TEXT WORD...: runs the command, wants this exit status and TEXT in what it prints
expect() {
    status=$1
    text=$2
    shift 2
    "$@" >out 2>err
    got=$?
    [ "$got" -eq "$status" ] || fail "'$*' exits with $got, not $status"
    cat out err | grep -qF -- "$text" || fail "'$*' does not say '$text'"
}

# is_empty DIR: nothing was left behind
is_empty() {
    [ ! -d "$1" ] || [ -z "$(ls -A "$1")" ] || fail "$1 holds $(ls -A "$1" | tr '\n' ' ')"
}

has_file() {
    [ -s "$1" ] || fail "$1 is missing or empty"
}

# number N: 8 bytes, lowest first
number() {
    printf "\\$(printf %03o $(($1 % 256)))\\$(printf %03o $(($1 / 256)))"
    printf '\000\000\000\000\000\000'
}

# safetensors JSON N_DATA [OCTAL]: a file whose data are N_DATA equal bytes, 0x3f without OCTAL
safetensors() {
    number ${#1}
    printf %s "$1"
    head -c "$2" /dev/zero | tr '\000' "\\${3:-077}"
}

# ---- help and usage ---------------------------------------------------------------------------

expect 0 'Usage: vtc' "$vtc" --help
expect 0 'vtc 0.' "$vtc" --version
expect 0 '--keep K' "$vtc" compare --help
expect 0 '--keep-ratio R' "$vtc" compress --help
expect 0 'Usage: vtc methods' "$vtc" methods --help
expect 0 'Models: llava-1.5-7b' "$vtc" cost --help
expect 0 'prefill, TFLOPs (gated MLP)                          8.450       2.454' \
    "$vtc" cost --model llava-1.5-7b --method tome --keep 128
expect 0 'K/V cache at the end, 10^6 bytes (8 bits)           1082.1' \
    "$vtc" cost --model video-llava-7b --bits 8 --text 30 --new 2 --visual 4096
# a grid cannot meet every number: the tool tells what is left, not what was asked
expect 0 'keeps 160. 160 visual tokens' \
    "$vtc" cost --model llava-next-7b --method ficoco-v --keep 160
expect 0 'keeps 136. 136 visual tokens' \
    "$vtc" cost --model video-llava-7b --method ficoco-v --keep 136
expect 0 'keeps 6. 6 visual tokens' "$vtc" cost --model llava-1.5-7b --method strided --keep 7
expect 2 'give a --model: llava-1.5-7b,' "$vtc" cost
expect 2 "no model 'llava'" "$vtc" cost --model llava
expect 2 'go together' "$vtc" cost --model llava-1.5-7b --keep 3
expect 2 "no planner 'best'" "$vtc" cost --model llava-1.5-7b --method best --keep 3
expect 2 'more than the 576' "$vtc" cost --model llava-1.5-7b --method tome --keep 577
expect 1 'no whole tiles' "$vtc" cost --model llava-1.5-7b --visual 577
expect 2 'Usage: vtc' "$vtc"
expect 2 "no command 'compres'" "$vtc" compres
expect 2 'nothing to do' "$vtc" compare
expect 2 'nothing to do' "$vtc" compress --method tome
expect 2 'one word too many' "$vtc" methods tome
expect 2 'no option --kep' "$vtc" compare --kep 4 x.jpg
expect 2 'no option -k' "$vtc" compare -k 4 x.jpg
expect 2 '--keep needs K' "$vtc" compare x.jpg --keep
for bad in 0 -1 abc 1.5 99999999999999999999 ''; do
    expect 2 '--keep takes' "$vtc" compare --keep "$bad" x.jpg
done
for bad in 0 -1 1.5 nan inf x; do
    expect 2 '--keep-ratio takes' "$vtc" compress --method tome --keep-ratio "$bad" x.jpg --out o
done
for bad in 24 24x 0x3 x 129x1 3x4x; do
    expect 2 '--grid takes' "$vtc" compare --grid "$bad" x.jpg
done
for bad in 1,2,3 1,2,0,4 1,2,3,4,5 -1,2,3,4 a,b,c,d 1,2,3,x ''; do
    expect 2 '--about takes' "$vtc" compare --about "$bad" x.jpg
done
expect 2 'more than the 24 x 24 = 576' "$vtc" compare --keep 577 "$photos/coffee.jpg"
expect 2 'give a method' "$vtc" compress x.jpg --keep 4 --out o
expect 2 'Planners: tome' "$vtc" compress x.jpg --method best --keep 4 --out o
expect 2 'is a pooling' "$vtc" compress x.jpg --method max_2x2 --keep 4 --out o
expect 2 'in front of the encoder' "$vtc" compress x.jpg --method image_resize --keep 4 --out o
expect 2 'either --keep K or --keep-ratio R' "$vtc" compress x.jpg --method tome --out o
expect 2 'either --keep K or --keep-ratio R' \
    "$vtc" compress x.jpg --method tome --out o --keep 4 --keep-ratio 0.5
expect 2 'with --out DIR' "$vtc" compress x.jpg --method tome --keep 4
expect 2 'no parameter colour' \
    "$vtc" compress x.jpg --method random --keep 4 --out o --set colour=1
expect 2 '--set takes NAME=VALUE' "$vtc" compress x.jpg --method random --keep 4 --out o --set seed
expect 2 'would write the same files' \
    "$vtc" compress a/cat.png b/cat.jpg --method tome --keep 4 --out o
expect 2 'would write the same file' "$vtc" compare a/cat.png b/cat.jpg --out o
is_empty o

# ---- methods ----------------------------------------------------------------------------------

for method in tome random strided mean_pool image_resize average_2x2; do
    expect 0 "$method" "$vtc" methods
    expect 0 "| \`$method\`" "$vtc" methods --markdown
done
expect 0 '--set seed=0' "$vtc" methods
expect 0 '--set route=0 (0 to 2)' "$vtc" methods
expect 0 '--set eps=0.998 (0 to 1)' "$vtc" methods
if [ -c /dev/full ]; then
    "$vtc" methods >/dev/full 2>err
    [ $? -eq 1 ] || fail 'a full disk behind the standard output goes unnoticed'
    grep -q 'cannot write to the standard output' err || fail 'a full disk is not reported'
fi

# ---- photographs ------------------------------------------------------------------------------

expect 0 'not a model'"'"'s accuracy' "$vtc" compare "$photos/coffee.jpg" --keep 64 --out pictures
has_file pictures/coffee.compare.png
for method in 'ToMe .*576 -> 64 ' 'random .*576 -> 64 .*±' 'average 2x2 .*576 -> 144 ' 'mean pool' \
    'FiCoCo-V .*576 -> 64 ' 'VisionZip .*576 -> 64 .*salience' 'MustDrop, encode' \
    'not run: FastV: lacks decoder Q and K' 'not run: SparseVLM'; do
    grep -q "^$method" out || fail "compare does not list $method"
done
expect 0 'at most 100 kept' "$vtc" compare "$photos/coffee.jpg" --keep 100 --out pictures
grep -q '^MustDrop, encode .*576 -> 96 ' out || fail 'MustDrop keeps more than asked'
expect 0 '8 x 12 = 96 tokens' "$vtc" compare "$photos/rocket.jpg" --grid 8x12 --keep 20 --out pictures
has_file pictures/rocket.compare.png
expect 0 '576 tokens' "$vtc" compare "$photos/coffee.jpg" --keep 64 --about 0,0,600,400 --out asked
for method in FiCoCo-L 'MustDrop, prefill' 'FocusLLaVA, text-guided' FastV SparseVLM; do
    grep -q "^$method .*576 -> .*a region stands in for the question" out ||
        fail "compare --about does not run $method"
done
expect 1 'is outside the part that is used' \
    "$vtc" compare "$photos/coffee.jpg" --about 100000,0,2,2 --out asked

tome100() {
    "$vtc" compress --method tome --keep 100 "$@"
}
expect 0 '576 -> 100 tokens' tome100 "$photos/coffee.jpg" --out one --threads 1
expect 0 '4 of 4 inputs' tome100 "$photos/coffee.jpg" "$photos/rocket.jpg" \
    "$photos/chelsea.jpg" "$photos/astronaut.jpg" --out four --threads 3
for kind in tokens.safetensors plan.safetensors overlay.png score.png; do
    has_file "four/astronaut.$kind"
    cmp -s "one/coffee.$kind" "four/coffee.$kind" || fail "coffee.$kind depends on the threads"
done
grep -qF '"method":"tome"' one/coffee.plan.safetensors || fail 'the plan does not name its method'
expect 0 '576 -> 144 tokens' \
    "$vtc" compress "$photos/coffee.jpg" --method strided --keep-ratio 0.25 --out ratio
expect 0 '576 -> 9 tokens' \
    "$vtc" compress "$photos/coffee.jpg" --method random --keep 9 --set seed=1 --out seed1
expect 0 '576 -> 9 tokens' "$vtc" compress "$photos/coffee.jpg" --method random --keep 9 --out seed0
cmp -s seed0/coffee.tokens.safetensors seed1/coffee.tokens.safetensors &&
    fail 'the seed makes no difference'

# ---- token files ------------------------------------------------------------------------------

expect 0 '100 -> 10 tokens' \
    "$vtc" compress one/coffee.tokens.safetensors --method tome --keep 10 --out again
has_file again/coffee.tokens.tokens.safetensors
[ ! -e again/coffee.tokens.overlay.png ] || fail 'an overlay without a grid'
expect 0 '100 -> 9 tokens' \
    "$vtc" compress one/coffee.tokens.safetensors --method mean_pool --keep 9 --grid 10x10 --out grid
has_file grid/coffee.tokens.overlay.png

tokens='"tokens":{"dtype":"F32","shape":[6,4],"data_offsets":[0,96]}'
safetensors "{$tokens}" 96 >plain.safetensors
safetensors "{$tokens,\"grid\":{\"dtype\":\"I32\",\"shape\":[3],\"data_offsets\":[96,108]}}" 108 \
    >grid.safetensors
safetensors "{$tokens,\"k\":{\"dtype\":\"F32\",\"shape\":[2,7,2],\"data_offsets\":[96,208]}}" 208 \
    >cls.safetensors
safetensors "{$tokens,\"k\":{\"dtype\":\"F32\",\"shape\":[2,9,2],\"data_offsets\":[96,240]}}" 240 \
    >long.safetensors
safetensors "{\"__metadata__\":{\"v_start\":\"2\"},$tokens,\
\"k\":{\"dtype\":\"F32\",\"shape\":[2,9,2],\"data_offsets\":[96,240]}}" 240 >lm.safetensors
safetensors "{\"__metadata__\":{\"v_start\":\"4\"},$tokens,\
\"k\":{\"dtype\":\"F32\",\"shape\":[2,9,2],\"data_offsets\":[96,240]}}" 240 >late.safetensors
safetensors "{\"__metadata__\":{\"layer\":\"-1\"},$tokens}" 96 >layer.safetensors
safetensors '{"tokens":{"dtype":"I32","shape":[6,4],"data_offsets":[0,96]}}' 96 >int.safetensors
safetensors '{"tokens":{"dtype":"F32","shape":[24],"data_offsets":[0,96]}}' 96 >rank.safetensors
safetensors '{"tokens":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0]}}' 0 >none.safetensors
safetensors '{"token":{"dtype":"F32","shape":[6,4],"data_offsets":[0,96]}}' 96 >name.safetensors
safetensors "{$tokens}" 96 377 >nan.safetensors
safetensors "{$tokens}" 96 000 >zero.safetensors
safetensors "{$tokens}" 95 >short.safetensors
tome3() {
    "$vtc" compress --method tome --keep 3 --out tokens "$@"
}
for good in plain cls lm; do
    expect 0 '6 -> 3 tokens' tome3 $good.safetensors
done
# one row of tokens: drawn smaller, or not at all
for n in 2000 8000; do
    end=$((4 * n))
    {
        safetensors "{\"tokens\":{\"dtype\":\"F32\",\"shape\":[$n,1],\"data_offsets\":[0,$end]},\
\"grid\":{\"dtype\":\"I64\",\"shape\":[2],\"data_offsets\":[$end,$((end + 16))]}}" $end
        number 1
        number $n
    } >wide$n.safetensors
    expect 0 "$n -> 3 tokens" "$vtc" compress wide$n.safetensors --method strided --keep 3 --out wide
done
has_file wide/wide2000.overlay.png
[ ! -e wide/wide8000.overlay.png ] || fail 'a picture of 8000 patches side by side'

expect 1 'tensor grid is I32 [3]' tome3 grid.safetensors
expect 1 'tensor k is F32 [2, 9, 2], but must be [H, n, d] with n 6, or 7' tome3 long.safetensors
expect 1 'v_start 4 and 6 tokens' tome3 late.safetensors
expect 1 "metadata layer is '-1'" tome3 layer.safetensors
expect 1 'tensor tokens is I32 [6, 4]' tome3 int.safetensors
expect 1 'tensor tokens is F32 [24]' tome3 rank.safetensors
expect 1 'tensor tokens is F32 [0, 4]' tome3 none.safetensors
expect 1 "no tensor 'tokens'" tome3 name.safetensors
expect 1 'short.safetensors: ' tome3 short.safetensors
expect 1 'row 0 is zero or not finite' tome3 nan.safetensors
expect 1 'row 0 is zero or not finite' tome3 zero.safetensors
expect 1 'a grid of 2 x 2 has 4 tokens' tome3 plain.safetensors --grid 2x2
expect 1 '--grid RxC tells the grid' \
    "$vtc" compress plain.safetensors --method mean_pool --keep 2 --out tokens
expect 1 'plain.safetensors: ' "$vtc" compress plain.safetensors --method strided --keep 7 --out over
is_empty over
expect 1 'is a token file' "$vtc" compare plain.safetensors --out over
is_empty over

# ---- broken inputs ----------------------------------------------------------------------------

mkdir broken folder.jpg
head -c 20000 "$photos/coffee.jpg" >broken/cut.jpg
head -c 300 "$photos/coffee.jpg" >broken/start.jpg
{ head -c 9000 "$photos/coffee.jpg" && head -c 9000 /dev/zero | tr '\000' '\125' &&
    tail -c +18001 "$photos/coffee.jpg"; } >broken/noise.jpg
printf '\377\330\377' >broken/three.jpg
: >broken/empty.jpg
printf 'hello, world' >broken/text.jpg
head -c 5000 one/coffee.overlay.png >broken/cut.png
# a PNG of 60000 x 60000 pixels, with the right check sum
printf '\211PNG\r\n\032\n\000\000\000\rIHDR\000\000\352\140\000\000\352\140\010\002\000\000\000' \
    >broken/bomb.png
printf '\017\260\342\025\000\000\000\020IDAT' >>broken/bomb.png
printf '\223NUMPY\001\000' >broken/cut.npy
head -c 12 plain.safetensors >broken/cut.safetensors
for file in broken/* folder.jpg missing.jpg /dev/null; do
    for command in "compare" "compress --method tome --keep 4"; do
        expect 1 "$file: " "$vtc" $command "$file" --out nothing
        is_empty nothing
    done
done
expect 1 'is a folder' "$vtc" compare folder.jpg
expect 1 '60000 x 60000' "$vtc" compare broken/bomb.png --out nothing
expect 1 'damaged' "$vtc" compare broken/cut.jpg --out nothing

# the others are finished
expect 1 'broken/cut.jpg: ' "$vtc" compress broken/cut.jpg "$photos/coffee.jpg" missing.jpg \
    "$photos/rocket.jpg" --method tome --keep 50 --out rest
grep -q '2 of 4 inputs' out || fail 'the number of inputs that were compressed is wrong'
has_file rest/coffee.plan.safetensors
has_file rest/rocket.overlay.png
[ "$(ls rest | wc -l)" -eq 8 ] || fail 'the broken inputs left files behind'

# ---- outputs that cannot be written -----------------------------------------------------------

: >file
expect 1 'file' "$vtc" compare "$photos/coffee.jpg" --out file
expect 1 'cannot make the folder file' "$vtc" compress "$photos/coffee.jpg" --method tome --keep 4 --out file/deep
expect 0 '576 -> 4 tokens' \
    "$vtc" compress "$photos/coffee.jpg" --method tome --keep 4 --out deep/er/
has_file deep/er/coffee.plan.safetensors
# no file may grow beyond 4 and 40 blocks of 512 bytes: tokens or the picture do not fit
for blocks in 4 40; do
    for command in "compare" "compress --method tome --keep 300"; do
        (ulimit -f $blocks && "$vtc" $command "$photos/coffee.jpg" --out full >out 2>full.err)
        [ $? -eq 1 ] || fail "$command: a full disk ($blocks) goes unnoticed"
        grep -q 'coffee.jpg: ' full.err || fail "$command: a full disk ($blocks) is not reported"
        is_empty full
    done
done

[ "$failures" -eq 0 ] || echo "$failures failures"
[ "$failures" -eq 0 ]
