# The same calls with more and more guests: the slope.
needs="guests_10k guests_1m guests_5m"

run() {
    local rounds=3
    growth /s 'sign_in_anonymously(), 8 clients' sign_in app 8 -T1
    growth /s 'refresh_session(), 8 clients' refresh app 8 -T1
    growth /s 'authenticate and a guarded read by key' read app 1 -T1
    growth ms 'clean-up, nothing expired' cleanup postgres 1 -t100
}

# growth UNIT WHAT SCRIPT ROLE CLIENTS LENGTH
growth() {
    local size items=() few
    for size in 10k 1m 5m; do items+=("growth_$3_$size=$3 $4 guests_$size $5 $6"); done
    measure "$1" "${items[@]}"
    few=$(words 10000)
    row "$2, $(words 1000000) guests" "growth_$3_1m" "$few guests" "growth_$3_10k"
    row "$2, $(words 5000000) guests" "growth_$3_5m" "$few guests" "growth_$3_10k"
}
