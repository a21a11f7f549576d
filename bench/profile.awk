# Sums up what perf report tells, `percent|program|[k] symbol` a line, by part; then the first
# symbols as they came, largest first. For bench/profile, which says what the parts are.

function part(program, symbol) {
    if (symbol ~ /^\[k\]/) return "kernel"
    sub(/^\[.\] /, "", symbol)
    if (symbol ~ /^(_?mi_|__rustc?::__?r|__rust_|__rdl_)/) return "allocator"
    if (program !~ /^parlor/) return "libc and vdso"
    if (symbol ~ /parlor::/) return "own code"
    if (symbol ~ /^(aws_lc|bn_|sha256_|sha512_|aes|gcm_|ChaCha|chacha)/) return "crypto"
    if (symbol ~ /^<?(sha2|hmac|rustls|tokio_rustls|aws_lc_rs|jsonwebtoken|crc32fast)::/)
        return "crypto"
    if (symbol ~ /::|^</) return "libraries in Rust"
    # What perf found no name for.
    if (symbol ~ /^0x/) return "unknown"
    return "sqlite3"
}

{
    share = $1 + 0
    gsub(/^ +| +$/, "", $2)
    symbol = $3
    for (i = 4; i <= NF; i++) symbol = symbol "|" $i
    gsub(/^ +| +$/, "", symbol)
    if (share == 0 || symbol == "") next
    parts[part($2, symbol)] += share
    if (lines++ < most) symbols[lines] = sprintf("%6.2f %%  %-14s %s", share, $2, symbol)
}

END {
    if (!lines) exit 1
    print "share of its CPU time:"
    for (name in parts) printf "%6.2f %%  %s\n", parts[name], name | "sort -rn"
    close("sort -rn")
    print "symbols:"
    for (i = 1; i <= most && i in symbols; i++) print substr(symbols[i], 1, 150)
}
